package course

var storage = chapter{"Storage", []step{
	{"10-persistentvolumeclaim.yaml, 11-persistentvolume.yaml and 12-storageclass.yaml with kubectl 1.20", []action{
		old("apply -f 10-persistentvolumeclaim.yaml -f 11-persistentvolume.yaml -f 12-storageclass.yaml",
			"persistentvolumeclaim/myclaim-1 created", "persistentvolume/pv0001 created", "storageclass.storage.k8s.io/standard created"),
		old("get pv pv0001", "pv0001 +10Gi +RWO"),
		old("delete -f 10-persistentvolumeclaim.yaml -f 11-persistentvolume.yaml -f 12-storageclass.yaml", "deleted.*deleted.*deleted"),
	}},
	{"a PersistentVolume of an administrator: an export of an NFS server", []action{
		kubectl("apply -f 11-persistentvolume.yaml", "created"),
		eventually("get pv pv0001", "pv0001 +10Gi +RWO +Retain +Available"),
		kubectl("describe pv pv0001", "NFS", "172.17.0.2", "/tmp"),
	}},
	{"a claim without a class asks for what the administrator made, and binds to it", []action{
		apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: by-hand}
spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}
`, "created"),
		eventually("get pvc by-hand", "by-hand +Bound +pv0001 +10Gi +RWO"),
		kubectl("delete pvc by-hand", "deleted"),
		eventually("get pv pv0001", "Released"),
		kubectl("delete pv pv0001", "deleted"),
	}},
	{"10-persistentvolumeclaim.yaml: the default class makes a volume where the pod that uses it runs", []action{
		kubectl("apply -f 10-persistentvolumeclaim.yaml", "created"),
		eventually("describe pvc myclaim-1", "WaitForFirstConsumer"),
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "echo kept >> /data/file; sleep 1000000"], volumeMounts: [{name: v, mountPath: /data}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: myclaim-1}}]
`, "created"),
		eventually("get pvc myclaim-1", "Bound +pvc-[0-9a-f-]+ +3Gi +RWO"),
		eventually("exec user -- cat /data/file", "^kept\n$"),
		kubectl("delete pod user", "deleted"),
		kubectl("delete pvc myclaim-1", "deleted"),
		eventually("get pv", "No resources found|^$"),
	}},
	{"12-storageclass.yaml: a class of a cloud is taken, and a claim of it says which driver is missing", []action{
		kubectl("apply -f 12-storageclass.yaml", "created"),
		kubectl("get storageclass standard", "standard +kubernetes.io/aws-ebs +Retain"),
		apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: of-a-cloud}
spec: {storageClassName: standard, accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}
`, "created"),
		eventually("describe pvc of-a-cloud", "aws-ebs"),
		kubectl("delete pvc of-a-cloud", "deleted"),
		kubectl("delete storageclass standard", "deleted"),
	}},
	{"the other plugins of the list: the pod says which driver is missing and what to use instead", []action{
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: ceph}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, cephfs: {monitors: ["192.0.2.1:6789"]}}]
`, "created"),
		eventually("describe pod ceph", "FailedMount.*cephfs"),
		kubectl("delete pod ceph", "deleted"),
	}},
	{"13-hostpath-pod.yaml with kubectl 1.20, which refuses its hostpath before it asks the server, unless told not to", []action{
		oldRefused("apply -f 13-hostpath-pod.yaml", `unknown field "hostpath"`, "--validate=false"),
		old("apply -f 13-hostpath-pod.yaml --validate=false", "pod/busybox created"),
		old("delete -f 13-hostpath-pod.yaml --grace-period=1", "deleted"),
	}},
	{"13-hostpath-pod.yaml: hostpath is taken for hostPath, with a warning: a directory of the node", []action{
		refused("apply --dry-run=server --warnings-as-errors -f 13-hostpath-pod.yaml", `unknown field "spec.volumes\[0\].hostpath" is taken for "hostPath"`),
		kubectl("apply -f 13-hostpath-pod.yaml", "pod/busybox created"),
		kubectl("get pod busybox -o jsonpath={.spec.volumes[?(@.name==\"my-vol\")].hostPath.path}", "^/dir2$"),
		eventually("get pod busybox", "Completed|CrashLoopBackOff"),
		onHost(0, "ls -ld /dir2", "^d"), // made on the pod's node: the hosts of this machine have one root
	}},
	{"and who then writes hostPath, as the warning asks for, changes nothing", []action{
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: busybox}
spec:
  containers: [{name: busybox, image: busybox, volumeMounts: [{name: my-vol, mountPath: /vol}]}]
  volumes: [{name: my-vol, hostPath: {path: /dir2}}]
`, "pod/busybox configured"),
		kubectl("delete -f 13-hostpath-pod.yaml --grace-period=1", "deleted"),
	}},
}}

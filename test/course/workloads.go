package course

import "time"

var architecture = chapter{"Architecture", []step{
	{"a master runs the API server, controllers and scheduler; worker nodes join it", []action{
		kubectl("get nodes -o wide", "host1 +Ready", "host2 +Ready", "host3 +Ready", "bramble"),
		kubectl("cluster-info", "control plane.*is running at"),
		kubectl("get --raw /readyz", "ok"),
		old("version --short", "Server Version: v1.37"),
	}},
}}

var pods = chapter{"Pod", []step{
	{"the containers of a pod share IPC, network and UTS namespaces, and files by a volume", []action{
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: web
    image: nginx:1.7.9
    volumeMounts: [{name: shared, mountPath: /usr/share/nginx/html}]
  - name: author
    image: busybox
    command: [sh, -c, "echo from the other container > /pages/index.html; sleep 1000000"]
    volumeMounts: [{name: shared, mountPath: /pages}]
`, "pod/two created"),
		eventually("get pod two", "2/2 +Running"),
		eventually("exec two -c author -- wget -qO- http://localhost/", "from the other container"),
		kubectl("exec two -c author -- hostname", "two"),
		sameNamespaces("two", "web", "author"),
		kubectl("delete pod two", "deleted"),
	}},
}}

var replicaSets = chapter{"ReplicaSet", []step{
	{"a ReplicaSet keeps track of the pods' replicas: one that is deleted is replaced", []action{
		apply(`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: two-of-a-kind}
spec:
  replicas: 2
  selector: {matchLabels: {app: kind}}
  template:
    metadata: {labels: {app: kind}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: nginx, image: "nginx:1.7.9"}]}
`, "created"),
		eventually("get replicaset two-of-a-kind", "two-of-a-kind +2 +2 +2"),
		kubectl("delete pods -l app=kind --wait=false", "deleted.*deleted"),
		eventually("get replicaset two-of-a-kind", "two-of-a-kind +2 +2 +2"),
		kubectl("delete replicaset two-of-a-kind", "deleted"),
	}},
}}

const deployment = "deployment/nginx-deployment"

var deployments = chapter{"Deployment", []step{
	{"01-deployment.yaml with kubectl 1.20: the old version is served and converted", []action{
		old("apply -f 01-deployment.yaml", "deployment.apps/nginx-deployment created"),
		old("get deployments.v1beta2.apps nginx-deployment -o yaml", "apiVersion: apps/v1beta2"),
		old("get -f 01-deployment.yaml", "nginx-deployment"),
		old("delete -f 01-deployment.yaml", "deleted"),
	}},
	{"a Deployment makes a ReplicaSet, and that three pods", []action{
		kubectl("apply -f 01-deployment.yaml", "deployment.apps/nginx-deployment created"),
		eventually("get deployment nginx-deployment", "3/3 +3 +3"),
		kubectl("get replicasets -l app=nginx", "nginx-deployment-[0-9a-z]+ +3 +3 +3"),
		kubectl("get pods -l app=nginx -o wide", "host1", "host2", "host3"),
	}},
	{"scaling up and down", []action{
		kubectl("scale "+deployment+" --replicas=5", "scaled"),
		eventually("get deployment nginx-deployment", "5/5"),
		kubectl("scale "+deployment+" --replicas=3", "scaled"),
		eventually("get deployment nginx-deployment", "3/3"),
	}},
	{"rolling upgrade and rollback", []action{
		kubectl("set image "+deployment+" nginx=nginx:1.9.1", "image updated"),
		kubectl("rollout status "+deployment+" --timeout=90s", "successfully rolled out"),
		kubectl("rollout history "+deployment, "1 .*2 "),
		kubectl("rollout undo "+deployment+" --to-revision=1", "rolled back"),
		kubectl("rollout status "+deployment+" --timeout=90s", "successfully rolled out"),
		kubectl("get "+deployment+" -o jsonpath={..image}", "^nginx:1.7.9$"),
	}},
	{"pause and resume", []action{
		kubectl("rollout pause "+deployment, "paused"),
		kubectl("set image "+deployment+" nginx=nginx:1.9.1", "image updated"),
		kubectl("get replicasets -l app=nginx -o jsonpath={.items[*].status.replicas}", "^(0 3|3 0)$"),
		kubectl("rollout resume "+deployment, "resumed"),
		kubectl("rollout status "+deployment+" --timeout=90s", "successfully rolled out"),
		kubectl("get pods -l app=nginx -o jsonpath={.items[*].spec.containers[0].image}", "nginx:1.9.1"),
	}},
	{"a HorizontalPodAutoscaler scales by CPU and other figures", []action{
		kubectl("set resources "+deployment+" --requests=cpu=50m", "updated"),
		kubectl("rollout status "+deployment+" --timeout=90s", "successfully rolled out"),
		kubectl("autoscale "+deployment+" --min=1 --max=4 --cpu=50%", "autoscaled"),
		eventually("get hpa nginx-deployment", "[0-9]+%/50%"),
		eventually("top pods -l app=nginx", "nginx-deployment-.*[0-9]+m"),
		kubectl("exec " + deployment + ` -- sh -c '(timeout 45 sh -c "while :; do :; done") >/dev/null 2>&1 &'`),
		eventually("get hpa nginx-deployment", "[0-9]{2,}%/50% +1 +4 +4"),
		eventually("get "+deployment, "4/4"),
		kubectl("delete hpa nginx-deployment", "deleted"),
	}},
}}

const headless = `
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {clusterIP: None, selector: {app: nginx}, ports: [{name: web, port: 80}]}
`

var statefulSets = chapter{"StatefulSet", []step{
	{"02-statefulset.yaml with kubectl 1.20", []action{
		kubectl("delete "+deployment, "deleted"),
		old("apply -f 02-statefulset.yaml", "statefulset.apps/web created"),
		old("get statefulsets.v1beta1.apps web -o yaml", "apiVersion: apps/v1beta1"),
		old("delete -f 02-statefulset.yaml", "deleted"),
		kubectl("delete pvc --all --wait=false"),
	}},
	{"its claims name a class that nobody has made: the pod waits and says for what", []action{
		kubectl("apply -f 02-statefulset.yaml", "statefulset.apps/web created"),
		eventually("get pods web-0", "Pending"),
		eventually("describe pvc www-web-0", `storageclass.*"my-storage-class" not found`),
	}},
	{"stable storage: once the class is there each pod gets a volume of its own", []action{
		apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: my-storage-class}
provisioner: bramble.dev/local
volumeBindingMode: WaitForFirstConsumer
`, "created"),
		apply(headless, "created"),
		eventually("get statefulset web", "web +3/3"),
		kubectl("get pvc", "www-web-0 +Bound", "www-web-1 +Bound", "www-web-2 +Bound"),
	}},
	{"pods are created in order, each when the one before it runs", []action{
		kubectl("get pods -l app=nginx --sort-by=.metadata.creationTimestamp -o jsonpath={.items[*].metadata.name}", "^web-0 web-1 web-2$"),
	}},
	{"stable names: each pod is found by its own, and keeps it when it is made again", []action{
		kubectl("exec web-0 -- hostname", "web-0"),
		kubectl("exec web-1 -- sh -c 'echo kept > /usr/share/nginx/html/index.html'"),
		kubectl("delete pod web-1", "deleted"),
		eventually("get pod web-1", "1/1 +Running"),
		eventually("exec web-0 -- wget -qO- http://web-1.nginx.default.svc.cluster.local/", "kept"),
	}},
	{"rolling update in order: from the last pod to the first, each when the one after it is ready", []action{
		kubectl(`patch statefulset web -p {"spec":{"updateStrategy":{"type":"RollingUpdate"},"template":{"metadata":{"annotations":{"edition":"two"}}}}}`, "patched"),
		kubectl("rollout status statefulset/web --timeout=90s", "rolling update complete 3 pods|3 pods at revision"),
		kubectl("get events --field-selector=involvedObject.name=web,reason=SuccessfulDelete --sort-by=.metadata.name -o jsonpath={.items[*].message}", "web-2.*web-1.*web-0"), // the names grow with the time
		kubectl("get pods -l app=nginx -o jsonpath={.items[*].metadata.annotations.edition}", "^two two two$"),
	}},
	{"scaling down and deleting go in the reverse order", []action{
		kubectl("scale statefulset web --replicas=1", "scaled"),
		eventually("get statefulset web", "web +1/1"),
		eventually("get pods -l app=nginx -o jsonpath={.items[*].metadata.name}", "^web-0$"),
		kubectl("get pvc", "www-web-2 +Bound"),
		kubectl("delete statefulset web", "deleted"),
		kubectl("delete service nginx", "deleted"),
		kubectl("delete pvc --all", "deleted"),
		kubectl("delete storageclass my-storage-class", "deleted"),
	}},
}}

var daemonSets = chapter{"DaemonSet", []step{
	{"03-daemonset.yaml with kubectl 1.20", []action{
		old("apply -f 03-daemonset.yaml", "daemonset.*fluentd-elasticsearch created"),
		old("-n kube-system get daemonsets.v1beta1.extensions fluentd-elasticsearch -o yaml", "apiVersion: extensions/v1beta1"),
		old("delete -f 03-daemonset.yaml", "deleted"),
	}},
	{"every node runs a copy, which reads the node's logs", []action{
		kubectl("apply -f 03-daemonset.yaml", "created"),
		eventually("-n kube-system get daemonset fluentd-elasticsearch", "fluentd-elasticsearch +3 +3 +3 +3 +3"),
		kubectl("-n kube-system get pods -l name=fluentd-elasticsearch -o wide", "host1", "host2", "host3"),
		kubectl("-n kube-system logs daemonset/fluentd-elasticsearch", "reads /var/log"),
	}},
	{"deleting it; its pods have half a minute to end, and are looked for in the last chapter", []action{
		kubectl("delete -f 03-daemonset.yaml --wait=false", "deleted"),
		eventually("-n kube-system get daemonsets", "No resources found|^$"),
	}},
}}

var jobs = chapter{"Job and CronJob", []step{
	{"04-job.yaml with kubectl 1.20", []action{
		old("apply -f 04-job.yaml", "job.batch/pi created"),
		old("delete -f 04-job.yaml", "deleted"),
	}},
	{"a Job runs until its pod has succeeded: two thousand digits of pi", []action{
		kubectl("apply -f 04-job.yaml", "job.batch/pi created"),
		within(3*time.Minute, "get job pi", "Complete +1/1"),
		kubectl("logs job/pi", `^3\.14159265358979[0-9]{990}[0-9]{980}`),
		kubectl("delete job pi", "deleted"),
	}},
	{"05-cronjob.yaml with both kubectls; its Jobs are looked at in the last chapter", []action{
		old("apply -f 05-cronjob.yaml", "cronjob.batch/hello created"),
		old("get cronjobs.v2alpha1.batch hello -o yaml", "apiVersion: batch/v2alpha1"),
		old("delete -f 05-cronjob.yaml", "deleted"),
		kubectl("apply -f 05-cronjob.yaml", "cronjob.batch/hello created"),
		kubectl("get cronjob hello", `\*/1 \* \* \* \*`),
	}},
}}

// later is what takes time: a CronJob's minute, a DaemonSet's pods that do not end at once.
var later = chapter{"Later", []step{
	{"deleting the DaemonSet has cleaned its pods up", []action{
		eventually("-n kube-system get pods -l name=fluentd-elasticsearch", "No resources found|^$"),
	}},
	{"the CronJob made a Job at the minute", []action{
		eventually("get jobs -o name", "job.batch/hello-[0-9]+"),
		eventually("logs -l batch.kubernetes.io/job-name --tail=10", "Hello from the Kubernetes cluster"),
		kubectl("delete cronjob hello", "deleted"),
	}},
}}

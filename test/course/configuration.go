package course

var configuration = chapter{"ConfigMap", []step{
	{"06-configmap.yaml and 07-configmap-pod.yaml with kubectl 1.20", []action{
		old("apply -f 06-configmap.yaml", "configmap/special-config created"),
		old("apply -f 07-configmap-pod.yaml", "pod/dapi-test-pod created"),
		old("delete -f 07-configmap-pod.yaml -f 06-configmap.yaml", "deleted.*deleted"),
	}},
	{"configuration apart from the image, as environment variables", []action{
		kubectl("apply -f 06-configmap.yaml", "created"),
		kubectl("apply -f 07-configmap-pod.yaml", "created"),
		eventually("get pod dapi-test-pod", "Completed"),
		kubectl("logs dapi-test-pod", "SPECIAL_LEVEL_KEY=very", "SPECIAL_TYPE_KEY=charm"),
		kubectl("delete pod dapi-test-pod", "deleted"),
	}},
	{"as files of a volume, which follow the ConfigMap while the pod runs", []action{
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: busybox, command: [sleep, "1000000"], volumeMounts: [{name: v, mountPath: /config}]}
  volumes: [{name: v, configMap: {name: special-config}}]
`, "created"),
		eventually("exec reader -- cat /config/special.how", "^very$"),
		kubectl(`patch configmap special-config --type=merge -p {"data":{"special.how":"extremely"}}`, "patched"),
		eventually("exec reader -- cat /config/special.how", "^extremely$"),
		kubectl("delete pod/reader configmap/special-config", "deleted"),
	}},
}}

var secrets = chapter{"Secret", []step{
	{"08-secret.yaml and 09-secret-pod.yaml with kubectl 1.20", []action{
		old("apply -f 08-secret.yaml", "secret/mysecret created"),
		old("apply -f 09-secret-pod.yaml", "pod/secret-env-pod created"),
		old("delete -f 09-secret-pod.yaml -f 08-secret.yaml --grace-period=1", "deleted.*deleted"),
	}},
	{"Opaque: base64 in the object, plain in the pod's environment", []action{
		kubectl("apply -f 08-secret.yaml", "created"),
		kubectl("get secret mysecret", "mysecret +Opaque +2"),
		kubectl("apply -f 09-secret-pod.yaml", "created"),
		eventually("get pod secret-env-pod", "1/1 +Running"),
		kubectl("exec secret-env-pod -- env", "SECRET_USERNAME=admin", "SECRET_PASSWORD=1f2d1e2e67df"),
	}},
	{"service account: its token is mounted by itself, and the API takes it", []action{
		kubectl("exec secret-env-pod -- ls /run/secrets/kubernetes.io/serviceaccount", "ca.crt", "namespace", "token"),
		kubectl("create role reader --verb=get --resource=secrets --resource-name=mysecret", "created"),
		kubectl("create rolebinding reader --role=reader --serviceaccount=default:default", "created"),
		asPod("secret-env-pod", "/api/v1/namespaces/default/secrets/mysecret", "username.*YWRtaW4="),
		asPod("secret-env-pod", "/api/v1/namespaces/default/secrets", `secrets is forbidden: User .*system:serviceaccount:default:default`),
		kubectl("delete rolebinding/reader role/reader", "deleted"),
		kubectl("delete pod/secret-env-pod secret/mysecret --grace-period=1", "deleted"),
	}},
	{"dockerconfigjson: a private registry gives the image to who has the Secret, and to nobody else", []action{
		private,
	}},
}}

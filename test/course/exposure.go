package course

var services = chapter{"Service", []step{
	{"ClusterIP: one address before the pods, found by DNS and by environment", []action{
		kubectl("create deployment hello --image=nginx:1.7.9 --replicas=3", "created"),
		kubectl("expose deployment hello --port=80 --type=NodePort", "exposed"),
		eventually("get deployment hello", "3/3"),
		eventually("get endpointslices -l kubernetes.io/service-name=hello", "hello-.*80"),
		apply(`
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sleep, "1000000"]}]
`, "created"),
		eventually("exec client -- wget -qO- http://hello.default.svc.cluster.local/", "Welcome to nginx"),
		kubectl("exec client -- env", "HELLO_SERVICE_HOST=10.43", "HELLO_SERVICE_PORT=80"),
		kubectl("exec client -- nslookup hello.default.svc.cluster.local", `10\.43\.`),
	}},
	{"NodePort: a port of every node", []action{
		nodePort("hello", "Welcome to nginx"),
	}},
	{"LoadBalancer: an address from outside, without a cloud", []action{
		kubectl(`patch service hello -p {"spec":{"type":"LoadBalancer"}}`, "patched"),
		eventually("get service hello", "LoadBalancer +10[.0-9]+ +10[.0-9]+"),
		external("get service hello -o jsonpath={.status.loadBalancer.ingress[0].ip}", "", "Welcome to nginx"),
		kubectl(`patch service hello -p {"spec":{"type":"ClusterIP"}}`, "patched"),
	}},
	{"Ingress: hosts and paths before Services", []action{
		apply(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: hello}
spec:
  rules:
  - host: hello.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: hello, port: {number: 80}}}}
`, "created"),
		eventually("get ingress hello", "hello.example +10[.0-9]+"),
		external("get ingress hello -o jsonpath={.status.loadBalancer.ingress[0].ip}", "hello.example", "Welcome to nginx"),
		kubectl("delete ingress/hello service/hello deployment/hello pod/client", "deleted"),
	}},
}}

var network = chapter{"Networking", []step{
	{"every host is assigned a subnet; pods reach each other across hosts by their own addresses", []action{
		kubectl("get nodes -o custom-columns=NODE:.metadata.name,SUBNET:.spec.podCIDR", `host1 +10\.42\.\d+\.0/24`, `host2 +10\.42\.\d+\.0/24`, `host3 +10\.42\.\d+\.0/24`),
		apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: nginx, image: "nginx:1.7.9"}]}
`, "created"),
		eventually("get daemonset everywhere", "everywhere +3 +3 +3"),
		everyPodReaches("app=everywhere", "Welcome to nginx"),
		onHost(0, "ip -d link show type vxlan", "vxlan id"),
	}},
	{"a NetworkPolicy closes pods to all but those that it names", []action{
		apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: everywhere}}
  ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}]}]
`, "created"),
		kubectl("run friend --image=busybox --labels=friend=yes --image-pull-policy=IfNotPresent --command -- sleep 1000000", "created"),
		kubectl("run stranger --image=busybox --image-pull-policy=IfNotPresent --command -- sleep 1000000", "created"),
		eventually("get pods friend stranger", "friend +1/1", "stranger +1/1"),
		reaches("friend", "app=everywhere", true),
		reaches("stranger", "app=everywhere", false),
		kubectl("delete networkpolicy/friends daemonset/everywhere pod/friend pod/stranger --grace-period=1", "deleted"),
	}},
}}

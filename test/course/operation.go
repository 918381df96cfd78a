package course

var features = chapter{"Features", []step{
	{"self-healing: a container that ends is started again", []action{
		kubectl("create deployment heal --image=nginx:1.7.9", "created"),
		eventually("get deployment heal", "1/1"),
		kubectl("exec deployment/heal -- kill 1"),
		eventually("get pods -l app=heal", "1/1 +Running +[1-9]"),
		kubectl("delete deployment heal", "deleted"),
	}},
	{"tenants: namespaces with quotas", []action{
		kubectl("create namespace tenant", "created"),
		kubectl("-n tenant create quota small --hard=pods=1", "created"),
		kubectl("-n tenant run first --image=busybox --image-pull-policy=IfNotPresent --command -- sleep 1000000", "created"),
		refused("-n tenant run second --image=busybox", "exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1"),
		kubectl("delete namespace tenant --wait=false", "deleted"),
	}},
}}

var troubleshooting = chapter{"Troubleshooting", []step{
	{"Pending: describe shows the events: the image is abroad and cannot be had", []action{
		kubectl("create deployment mirrored --image="+abroad+"/shop/nginx:1", "created"),
		kubectl("create deployment carried --image="+abroad+"/shop/nginx:2", "created"),
		eventually("describe pods -l app=mirrored", "ErrImagePull|ImagePullBackOff", "abroad"),
	}},
	{"a mirror in the country has it", []action{
		mirrored("nginx", "shop/nginx:1"),
		eventually("get deployment mirrored", "1/1"),
	}},
	{"or somebody carries it there, and it is imported (docker load, in the course)", []action{
		carried("nginx", abroad+"/shop/nginx:2"),
		eventually("get deployment carried", "1/1"),
		kubectl("delete deployment mirrored carried --wait=false", "deleted"),
	}},
	{"Pending: no node has what the pod asks for", []action{
		kubectl(`run big --image=busybox --overrides={"spec":{"containers":[{"name":"big","image":"busybox","resources":{"requests":{"memory":"900Gi"}}}]}}`, "created"),
		eventually("describe pod big", "0/3 nodes are available: 3 Insufficient memory"),
		kubectl("delete pod big", "deleted"),
	}},
	{"the cluster: bramble check names what a node lacks", []action{
		bramble(0, "check", "runc|cgroup"),
		kubectl("get events -A", "Normal"),
		kubectl("describe node host1", "Conditions:.*Ready", "Allocated resources"),
	}},
	{"an application: logs, exec, port-forward, cp", []action{
		kubectl("run app --image=nginx:1.7.9", "created"),
		eventually("get pod app", "1/1 +Running"),
		kubectl("logs app", "nginx|start worker"),
		kubectl("exec app -- nginx -v"),
		forwarded("app", "Welcome to nginx"),
		copied("app"),
		kubectl("delete pod app", "deleted"),
	}},
}}

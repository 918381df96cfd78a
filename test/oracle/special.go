package main

import (
	"fmt"
	"strings"
)

// script is requests of single kinds, in order.
type script []exchange

func (s *script) add(group, name, method, path, body string, headers ...string) {
	*s = append(*s, exchange{group: group, name: name, method: method, path: path, body: body, headers: headers, once: !strings.Contains(path, "dryRun")})
}

// special is what single kinds do that no other does.
func special(ns string) []exchange {
	var s script
	s.add("malformed", "a field that is written in another case alone", "POST", core(ns)+"configmaps?dryRun=All&fieldValidation=Strict", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s"},"Data":{"a":"b"}}`)
	s.pods(ns)
	s.services(ns)
	s.scales(ns)
	s.tokens(ns)
	s.namespaces(ns)
	s.limits(ns)
	s.fromTheStart()
	return s
}

// pods are bound, changed where they may be, evicted.
func (s *script) pods(ns string) {
	c := core(ns)
	s.add("pods", "made", "POST", c+"pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"s","labels":{"a":"b"}},"spec":{"schedulerName":"nobody","containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1"}}}]}}`)
	s.add("pods", "bound to what is no node", "POST", c+"pods/s/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"s"},"target":{"kind":"Pod","name":"n"}}`)
	s.add("pods", "bound to nothing", "POST", c+"pods/s/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"s"},"target":{}}`)
	s.add("pods", "bound under another name", "POST", c+"pods/s/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"t"},"target":{"kind":"Node","name":"n"}}`)
	s.add("pods", "bound, dry", "POST", c+"pods/s/binding?dryRun=All", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"s"},"target":{"kind":"Node","name":"n"}}`)
	s.add("pods", "bound by the old path", "POST", c+"bindings", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"s","annotations":{"x":"y"},"labels":{"l":"m"}},"target":{"kind":"Node","name":"n"}}`)
	s.add("pods", "bound again", "POST", c+"pods/s/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"s"},"target":{"kind":"Node","name":"m"}}`)
	s.add("pods", "bound to what is not there", "POST", c+"pods/nothing/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"nothing"},"target":{"kind":"Node","name":"m"}}`)
	s.add("pods", "as it is then", "GET", c+"pods/s", "")
	s.podChanges(c)
	s.add("pods", "a log of a node that is not there", "GET", c+"pods/s/log", "")
	s.add("pods", "a log of a container that is not there", "GET", c+"pods/s/log?container=x", "")
	s.add("pods", "exec without an upgrade", "POST", c+"pods/s/exec?command=x", "")
	s.add("pods", "exec in a container that is not there", "POST", c+"pods/s/exec?command=x&container=y", "")
	s.add("pods", "evicted", "POST", c+"pods/s/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"s"}}`)
	s.add("pods", "after it", "GET", c+"pods/s", "")
	s.add("pods", "deleted gracefully", "DELETE", c+"pods/s", `{"gracePeriodSeconds":50}`)
	s.add("pods", "deleted at once", "DELETE", c+"pods/s?gracePeriodSeconds=0", "")
	s.podsWith(c)
}

func (s *script) podChanges(c string) {
	for _, patch := range []string{`{"spec":{"nodeName":"x"}}`, `{"spec":{"containers":[{"name":"c","image":"j"}]}}`, `{"spec":{"containers":[{"name":"d","image":"j"}]}}`, `{"spec":{"activeDeadlineSeconds":5}}`, `{"spec":{"tolerations":[{"operator":"Exists","key":"x"}]}}`, `{"spec":{"terminationGracePeriodSeconds":1}}`, `{"spec":{"hostNetwork":true}}`,
		`{"spec":{"schedulingGates":[{"name":"a/b"}]}}`, `{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}`, `{"status":{"phase":"Running"}}`, `{"metadata":{"annotations":{"a":"b"}}}`, `{"metadata":{"labels":null}}`, `{"spec":{"restartPolicy":"Never"}}`, `{"spec":{"priority":5}}`, `{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}`} {
		s.add("pods", "changed by "+patch, "PATCH", c+"pods/s?dryRun=All", patch, strategic)
		s.add("pods", "status by "+patch, "PATCH", c+"pods/s/status?dryRun=All", patch, strategic)
		s.add("pods", "resized by "+patch, "PATCH", c+"pods/s/resize?dryRun=All", patch, strategic)
		s.add("pods", "ephemeral by "+patch, "PATCH", c+"pods/s/ephemeralcontainers?dryRun=All", patch, strategic)
	}
	for _, resize := range []string{`{"requests":{"cpu":"2"}}`, `{"limits":{"cpu":"2"}}`, `{"requests":{"cpu":"-2"}}`, `{"requests":{"cpu":null}}`, `{"requests":{"memory":"1Gi"}}`, `{"requests":{"storage":"1Gi"}}`, `{"requests":{"cpu":"3"},"limits":{"cpu":"2"}}`} {
		s.add("pods", "resized to "+resize, "PATCH", c+"pods/s/resize?dryRun=All", `{"spec":{"containers":[{"name":"c","resources":`+resize+`}]}}`, strategic)
	}
	for _, body := range []string{`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"s"}}`, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"t"}}`, `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"s"}}`, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"s"},"deleteOptions":{"preconditions":{"uid":"x"}}}`, `{}`} {
		s.add("pods", "evicted, dry: "+body, "POST", c+"pods/s/eviction?dryRun=All", body)
	}
}

func (s *script) podsWith(c string) {
	for _, pod := range []string{`{"serviceAccountName":"nobody"}`, `{"priorityClassName":"nothing"}`, `{"priorityClassName":"system-node-critical"}`, `{"runtimeClassName":"nothing"}`, `{"hostNetwork":true}`, `{"schedulingGates":[{"name":"a/b"}]}`, `{"nodeName":"n"}`, `{"nodeName":"No_Such"}`, `{"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]}`,
		`{"enableServiceLinks":null}`, `{"hostUsers":false}`, `{"resources":{"requests":{"cpu":"2"}}}`, `{"securityContext":{"seccompProfile":{"type":"Localhost"}}}`, `{"securityContext":{"windowsOptions":{"runAsUserName":"x"}}}`, `{"os":{"name":"windows"},"securityContext":{"runAsUser":5}}`, `{"ephemeralContainers":[{"name":"e","image":"i"}]}`} {
		body := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"t"},"spec":` + strings.TrimSuffix(pod, "}") + `,"containers":[{"name":"c","image":"i"}]}}`
		s.add("pods", "with "+pod, "POST", c+"pods?dryRun=All", body)
	}
}

// services: addresses and ports that are given, asked for, taken and freed, in every type.
func (s *script) services(ns string) {
	c := core(ns)
	service := func(name, spec string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":%s}`, name, spec)
	}
	for i, spec := range []string{`{"ports":[{"port":80}]}`, `{"clusterIP":"None"}`, `{"clusterIP":"None","ports":[{"port":80}]}`, `{"clusterIP":"10.96.7.7","ports":[{"port":80}]}`, `{"clusterIP":"10.96.7.7","ports":[{"port":80}]}`, `{"clusterIP":"10.200.0.1","ports":[{"port":80}]}`, `{"clusterIP":"x","ports":[{"port":80}]}`, `{"clusterIP":"10.96.0.0","ports":[{"port":80}]}`, `{"clusterIP":"10.96.255.255","ports":[{"port":80}]}`,
		`{"type":"NodePort","ports":[{"port":80,"nodePort":30777}]}`, `{"type":"NodePort","ports":[{"port":80,"nodePort":30777}]}`, `{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}`, `{"type":"NodePort","ports":[{"name":"a","port":80,"nodePort":30778},{"name":"b","port":80,"nodePort":30778,"protocol":"UDP"}]}`, `{"type":"LoadBalancer","ports":[{"port":80}]}`, `{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[{"port":80}]}`,
		`{"type":"LoadBalancer","loadBalancerIP":"1.2.3.4","loadBalancerSourceRanges":["10.0.0.0/8"],"loadBalancerClass":"x.io/y","ports":[{"port":80}]}`, `{"type":"LoadBalancer","loadBalancerSourceRanges":["10.0.0.0/99"],"ports":[{"port":80}]}`, `{"type":"ExternalName","externalName":"example.com"}`, `{"type":"ExternalName","externalName":"exa mple"}`, `{"type":"ExternalName"}`, `{"type":"ExternalName","externalName":"a.b","ports":[{"port":80}]}`, `{"type":"Dance","ports":[{"port":80}]}`,
		`{"ipFamilies":["IPv6"],"ports":[{"port":80}]}`, `{"ipFamilyPolicy":"RequireDualStack","ports":[{"port":80}]}`, `{"ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]}`, `{"clusterIPs":["10.96.7.8","fd00::1"],"ports":[{"port":80}]}`, `{"externalTrafficPolicy":"Local","ports":[{"port":80}]}`, `{"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":30999,"ports":[{"port":80}]}`, `{"internalTrafficPolicy":"Local","ports":[{"port":80}]}`,
		`{"sessionAffinity":"ClientIP","ports":[{"port":80}]}`, `{"sessionAffinity":"None","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":5}},"ports":[{"port":80}]}`, `{"ports":[{"port":80},{"port":81}]}`, `{"ports":[{"name":"a","port":80},{"name":"a","port":81}]}`, `{"ports":[{"port":80,"protocol":"SCTP"}]}`, `{"ports":[{"port":80,"targetPort":"a_b"}]}`, `{"selector":{"a":"b/c/d"},"ports":[{"port":80}]}`, `{"trafficDistribution":"PreferSameNode","ports":[{"port":80}]}`, `{"trafficDistribution":"x","ports":[{"port":80}]}`} {
		name := fmt.Sprintf("s%d", i)
		s.add("services", "dry: "+spec, "POST", c+"services?dryRun=All", service(name, spec))
		s.add("services", "made: "+spec, "POST", c+"services", service(name, spec))
		s.add("services", "as a table: "+spec, "GET", c+"services/"+name, "", asTable)
		for _, patch := range []string{`{"type":"ClusterIP"}`, `{"type":"NodePort"}`, `{"type":"LoadBalancer"}`, `{"type":"ExternalName","externalName":"x.example.com"}`, `{"type":"ExternalName","externalName":"x.example.com","clusterIP":null}`, `{"clusterIP":"None"}`, `{"clusterIP":"10.96.9.9"}`, `{"clusterIP":""}`, `{"externalTrafficPolicy":"Local"}`, `{"ports":[{"port":80,"nodePort":30555}]}`, `{"sessionAffinity":"ClientIP"}`, `{"ipFamilies":["IPv6"]}`, `{"externalIPs":["192.0.2.1","x"]}`} {
			s.add("services", name+" changed by "+patch+", dry: "+spec, "PATCH", c+"services/"+name+"?dryRun=All", `{"spec":`+patch+`}`, merge)
		}
	}
	for i := range 37 {
		s.add("services", fmt.Sprintf("s%d deleted", i), "DELETE", c+fmt.Sprintf("services/s%d", i), "")
	}
	s.add("services", "an address that is free again", "POST", c+"services", service("again", `{"clusterIP":"10.96.7.7","type":"NodePort","ports":[{"port":80,"nodePort":30777}]}`))
	s.add("services", "becomes a name", "PATCH", c+"services/again", `{"spec":{"type":"ExternalName","externalName":"x.example.com","clusterIP":null,"ports":null}}`, merge)
	s.add("services", "whose address another takes", "POST", c+"services", service("another", `{"clusterIP":"10.96.7.7","ports":[{"port":80}]}`))
	s.add("services", "which it then can't have", "PATCH", c+"services/again", `{"spec":{"type":"ClusterIP","clusterIP":"10.96.7.7","ports":[{"port":80}]}}`, merge)
	s.add("services", "its status", "PATCH", c+"services/another/status", `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9","ipMode":"VIP"}]}}}`, merge)
	s.add("services", "its status with nonsense", "PATCH", c+"services/another/status", `{"status":{"loadBalancer":{"ingress":[{"ip":"x"}]}}}`, merge)
	s.add("services", "its status in a table", "GET", c+"services/another", "", asTable)
	s.add("services", "many at once", "DELETE", c+"services?fieldSelector=metadata.name%3Danother", "")
	s.add("services", "their addresses", "GET", "/apis/networking.k8s.io/v1/ipaddresses/10.96.7.7", "")
}

func (s *script) scales(ns string) {
	apps := "/apis/apps/v1/namespaces/" + ns + "/"
	s.add("scale", "made", "POST", apps+"deployments", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"s"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	for _, patch := range []string{`{"spec":{"replicas":3}}`, `{"spec":{"replicas":-3}}`, `{"spec":{"replicas":"x"}}`, `{"metadata":{"resourceVersion":"1"},"spec":{"replicas":3}}`, `{"metadata":{"name":"other"}}`, `{"metadata":{"labels":{"a":"b"}}}`, `{"status":{"replicas":9}}`} {
		s.add("scale", patch, "PATCH", apps+"deployments/s/scale", patch, merge)
	}
	s.add("scale", "applied", "PATCH", apps+"deployments/s/scale?fieldManager=m", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"s"},"spec":{"replicas":7}}`, apply)
	s.add("scale", "applied, forced", "PATCH", apps+"deployments/s/scale?fieldManager=m&force=true", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"s"},"spec":{"replicas":7}}`, apply)
	s.add("scale", "put", "PUT", apps+"deployments/s/scale", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"s","namespace":"`+ns+`"},"spec":{"replicas":4}}`)
	s.add("scale", "as it is then", "GET", apps+"deployments/s", "")
	s.add("scale", "rolled back by the old way", "POST", apps+"deployments/s/rollback", `{}`)
}

func (s *script) tokens(ns string) {
	c := core(ns)
	for _, spec := range []string{`{}`, `{"expirationSeconds":600}`, `{"expirationSeconds":5}`, `{"expirationSeconds":99999999999}`, `{"audiences":["a","b"]}`, `{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"nothing"}}`, `{"boundObjectRef":{"kind":"Poem","apiVersion":"v1","name":"x"}}`, `{"boundObjectRef":{"kind":"Secret","apiVersion":"v1","name":"nothing"}}`} {
		body := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":` + spec + `}`
		s.add("tokens", spec, "POST", c+"serviceaccounts/default/token", body)
		s.add("tokens", "of nobody: "+spec, "POST", c+"serviceaccounts/nobody/token", body)
	}
}

func (s *script) namespaces(ns string) {
	s.add("namespaces", "a protected one", "DELETE", "/api/v1/namespaces/default", "")
	s.add("namespaces", "another protected one", "DELETE", "/api/v1/namespaces/kube-system", "")
	s.add("namespaces", "made", "POST", "/api/v1/namespaces", `{"metadata":{"name":"`+ns+`-gone"}}`)
	s.add("namespaces", "deleted", "DELETE", "/api/v1/namespaces/"+ns+"-gone", "")
	s.add("namespaces", "as it is then", "GET", "/api/v1/namespaces/"+ns+"-gone", "")
	s.add("namespaces", "something made in it", "POST", "/api/v1/namespaces/"+ns+"-gone/configmaps", `{"metadata":{"name":"x"}}`)
	s.add("namespaces", "finalized", "PUT", "/api/v1/namespaces/"+ns+"-gone/finalize", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"`+ns+`-gone"},"spec":{"finalizers":[]}}`)
	s.add("namespaces", "after that", "GET", "/api/v1/namespaces/"+ns+"-gone", "")
	for _, name := range []string{"UPPER", "a.b", "-a", "a-", "1", strings.Repeat("n", 64), "kube-mine", "a_b"} {
		s.add("namespaces", "called "+name, "POST", "/api/v1/namespaces?dryRun=All", `{"metadata":{"name":"`+name+`"}}`)
	}
}

// limits are what a namespace allows: ranges, and what pods may ask for.
func (s *script) limits(ns string) {
	limits := "/api/v1/namespaces/" + ns + "-limits/"
	s.add("limits", "a namespace", "POST", "/api/v1/namespaces", `{"metadata":{"name":"`+ns+`-limits","labels":{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/warn":"restricted"}}}`)
	s.add("limits", "its account", "POST", limits+"serviceaccounts", `{"metadata":{"name":"default"}}`)
	s.add("limits", "a range", "POST", limits+"limitranges", `{"metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","max":{"cpu":"2"},"min":{"cpu":"100m"},"default":{"cpu":"1"},"defaultRequest":{"cpu":"500m"},"maxLimitRequestRatio":{"cpu":"3"}},{"type":"PersistentVolumeClaim","max":{"storage":"5Gi"},"min":{"storage":"1Gi"}}]}}`)
	for _, resources := range []string{`{}`, `{"requests":{"cpu":"50m"}}`, `{"limits":{"cpu":"3"}}`, `{"requests":{"cpu":"200m"},"limits":{"cpu":"2"}}`, `{"requests":{"cpu":"1"},"limits":{"cpu":"2"}}`} {
		for _, security := range []string{`{}`, `{"privileged":true}`, `{"capabilities":{"add":["SYS_ADMIN"]}}`, `{"allowPrivilegeEscalation":false,"runAsNonRoot":true,"capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"RuntimeDefault"}}`} {
			s.add("limits", "a pod with "+resources+" "+security, "POST", limits+"pods?dryRun=All", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","resources":`+resources+`,"securityContext":`+security+`}]}}`)
		}
	}
	for _, pod := range []string{`{"hostNetwork":true}`, `{"hostPID":true}`, `{"volumes":[{"name":"v","hostPath":{"path":"/"}}]}`, `{"securityContext":{"sysctls":[{"name":"kernel.msgmax","value":"1"}]}}`} {
		s.add("limits", "a pod with "+pod, "POST", limits+"pods?dryRun=All", `{"metadata":{"name":"p"},"spec":`+strings.TrimSuffix(pod, "}")+`,"containers":[{"name":"c","image":"i"}]}}`)
		s.add("limits", "a deployment with "+pod, "POST", strings.Replace(limits, "/api/v1", "/apis/apps/v1", 1)+"deployments?dryRun=All", `{"metadata":{"name":"p"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":`+strings.TrimSuffix(pod, "}")+`,"containers":[{"name":"c","image":"i"}]}}}}`)
	}
	for _, size := range []string{"500Mi", "2Gi", "9Gi"} {
		s.add("limits", "a claim of "+size, "POST", limits+"persistentvolumeclaims?dryRun=All", `{"metadata":{"name":"c"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"`+size+`"}}}}`)
	}
	s.add("limits", "stricter", "PATCH", "/api/v1/namespaces/"+ns+"-limits", `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted","pod-security.kubernetes.io/enforce-version":"v1.99"}}}`, merge)
	s.add("limits", "a level that is none", "PATCH", "/api/v1/namespaces/"+ns+"-limits", `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"lax"}}}`, merge)
	s.add("limits", "a range that contradicts itself", "POST", limits+"limitranges", `{"metadata":{"name":"m"},"spec":{"limits":[{"type":"Container","max":{"cpu":"1"},"min":{"cpu":"2"},"default":{"cpu":"5"}}]}}`)
	s.add("limits", "classes that are there", "GET", "/apis/scheduling.k8s.io/v1/priorityclasses", "")
}

// fromTheStart is what is there before anybody wrote anything.
func (s *script) fromTheStart() {
	for _, path := range []string{"/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles", "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "/api/v1/namespaces/default", "/api/v1/namespaces/kube-system", "/api/v1/namespaces/kube-public", "/api/v1/namespaces/kube-node-lease", "/api/v1/namespaces/default/services/kubernetes", "/apis/networking.k8s.io/v1/servicecidrs"} {
		s.add("from the start", path, "GET", path+"?labelSelector=app%21%3Dweb", "")
	}
}

// things are what the CustomResourceDefinition of objects.yaml defines.
func things(ns string) (out []exchange) {
	group := ns + ".example.com"
	list := "/apis/" + group + "/v1/namespaces/" + ns + "/things"
	add := func(name, method, path, body string, headers ...string) {
		out = append(out, exchange{group: "custom resources", name: name, method: method, path: path, body: body, headers: headers, once: !strings.Contains(path, "dryRun")})
	}
	thing := func(name, spec string) string {
		return fmt.Sprintf(`{"apiVersion":%q,"kind":"Thing","metadata":{"name":%q,"labels":{"app":"web"}},"spec":%s}`, group+"/v1", name, spec)
	}
	for i, spec := range []string{`{"color":"red","replicas":2,"size":"5%","list":["a","b"]}`, `{"color":"green"}`, `{}`, `{"color":"blue"}`, `{"color":"red","replicas":-1}`, `{"color":"red","replicas":15}`, `{"color":"red","replicas":"x"}`, `{"color":"red","list":["a","a"]}`, `{"color":"red","list":["a","b","c","d"]}`, `{"color":"red","list":["toolong"]}`, `{"color":"red","unknown":1}`, `{"color":null}`, `5`, `{"color":"red","size":1.5}`} {
		name := fmt.Sprintf("t%d", i)
		for _, validation := range []string{"Strict", "Warn", "Ignore"} {
			add(spec+" dry, "+validation, "POST", list+"?dryRun=All&fieldValidation="+validation, thing(name, spec))
		}
		add(spec, "POST", list, thing(name, spec))
		add(spec+" got", "GET", list+"/"+name, "")
	}
	for _, headers := range [][]string{nil, {asTable}, {partials}, {asYAML}, {protobuf}, {asCBOR}} {
		add("listed", "GET", list, "", headers...)
		add("one", "GET", list+"/t0", "", headers...)
		add("in the old version", "GET", strings.Replace(list, "/v1/", "/v1beta1/", 1), "", headers...)
	}
	for _, query := range []string{"fieldSelector=spec.color%3Dred", "fieldSelector=spec.color%21%3Dred", "fieldSelector=spec.size%3D1", "labelSelector=app", "limit=1", "limit=x", "watch=1&timeoutSeconds=1", "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"} {
		add("listed by "+query, "GET", list+"?"+query, "")
	}
	for _, sub := range []string{"", "/status", "/scale"} {
		for _, patch := range []string{`{"spec":{"replicas":3}}`, `{"spec":{"replicas":-3}}`, `{"status":{"replicas":3,"selector":"a=b","more":{"x":1}}}`, `{"metadata":{"labels":{"l":"m"}}}`, `{"spec":{"unknown":1}}`, `{"spec":{"color":null}}`} {
			add("t0"+sub+" merged with "+patch, "PATCH", list+"/t0"+sub, patch, merge)
			add("t0"+sub+" strategically with "+patch, "PATCH", list+"/t0"+sub, patch, strategic)
			add("t0"+sub+" strictly with "+patch, "PATCH", list+"/t0"+sub+"?dryRun=All&fieldValidation=Strict", patch, merge)
		}
		add("t0"+sub, "GET", list+"/t0"+sub, "")
		add("t0"+sub+" as a table", "GET", list+"/t0"+sub, "", asTable)
	}
	add("applied", "PATCH", list+"/t0?fieldManager=m", thing("t0", `{"color":"green","list":["z"]}`), apply)
	add("applied, forced", "PATCH", list+"/t0?fieldManager=m&force=true", thing("t0", `{"color":"green","list":["z"]}`), apply)
	add("applied in the old version", "PATCH", strings.Replace(list, "/v1/", "/v1beta1/", 1)+"/t0?fieldManager=m&force=true", strings.Replace(thing("t0", `{"color":"red","list":["y"]}`), "/v1", "/v1beta1", 1), apply)
	add("by operations", "PATCH", list+"/t0", `[{"op":"add","path":"/spec/list/-","value":"q"}]`, jsonPatch)
	add("put without a revision", "PUT", list+"/t0", thing("t0", `{"color":"red"}`))
	add("put with another name", "PUT", list+"/t0", thing("t1", `{"color":"red"}`))
	add("of another kind", "POST", list, `{"apiVersion":"`+group+`/v1","kind":"Other","metadata":{"name":"x"}}`)
	add("in a version that is not there", "GET", strings.Replace(list, "/v1/", "/v9/", 1), "")
	add("its group", "GET", "/apis/"+group, "")
	add("its version", "GET", "/apis/"+group+"/v1", "")
	add("its documents", "GET", "/openapi/v3/apis/"+group+"/v1", "")
	add("one deleted", "DELETE", list+"/t0", "")
	add("all deleted", "DELETE", list, "")
	add("none is left", "GET", list, "")
	return out
}

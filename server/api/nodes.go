package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	noderest "k8s.io/kubernetes/pkg/registry/core/node/rest"

	"bramble.dev/server/api/resourcemetrics"
)

// kubeletPort is the port that URLs name; nothing listens there, the connection is a stream over the node's link.
const kubeletPort = 10250

// kubelets tells upstream's log, exec, attach, port-forward and proxy handlers how to reach a node: by its name, through NodeDialer.
type kubelets struct {
	nodes     corelisters.NodeLister
	transport *http.Transport
}

func newKubelets(nodes corelisters.NodeLister, dial func(context.Context, string) (net.Conn, error)) *kubelets {
	if dial == nil {
		dial = func(_ context.Context, node string) (net.Conn, error) {
			return nil, fmt.Errorf("node %s: no link to nodes", node)
		}
	}
	return &kubelets{nodes: nodes, transport: &http.Transport{
		// A pooled connection would hold a stream of the link open, so none is kept long.
		MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			conn, err := dial(ctx, node)
			if client := upgraded(ctx); err == nil && client != nil {
				conn = &watched{conn, func() { _ = client.Close() }}
			}
			return conn, err
		},
	}}
}

func (k *kubelets) GetConnectionInfo(ctx context.Context, name types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	if _, err := k.nodes.Get(string(name)); apierrors.IsNotFound(err) {
		// Upstream's words: they name the resource that was asked for, of a pod's log "pods".
		resource := "nodes"
		if info, ok := request.RequestInfoFrom(ctx); ok {
			resource = info.Resource
		}
		return nil, apierrors.NewNotFound(corev1.Resource(resource), string(name))
	} else if err != nil {
		return nil, err
	}
	t := endApart{k.transport}
	return &kubeletclient.ConnectionInfo{Scheme: "http", Hostname: string(name), Port: strconv.Itoa(kubeletPort), Transport: t, InsecureSkipTLSVerifyTransport: t}, nil
}

// endApart is a transport whose answers give their last bytes first and io.EOF after: upstream's way of a log into a
// WebSocket (wsstream) drops bytes that come together with it, and a short log comes over the link as one piece.
type endApart struct{ *http.Transport }

// WrappedRoundTripper implements utilnet.RoundTripperWrapper, which finds the dialer of exec and attach.
func (t endApart) WrappedRoundTripper() http.RoundTripper { return t.Transport }

func (t endApart) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.Transport.RoundTrip(r)
	if err == nil && answer.StatusCode != http.StatusSwitchingProtocols { // that body is written to as well
		answer.Body = &apart{ReadCloser: answer.Body}
	}
	return answer, err
}

type apart struct {
	io.ReadCloser
	end error
}

func (a *apart) Read(p []byte) (int, error) {
	if a.end != nil {
		return 0, a.end
	}
	n, err := a.ReadCloser.Read(p)
	if n > 0 && err != nil {
		a.end, err = err, nil
	}
	return n, err
}

// usage is what metrics.k8s.io asks nodes with.
func (w *wiring) usage() resourcemetrics.Config {
	core := w.informers.Core().V1()
	return resourcemetrics.Config{Transport: w.kubelets.transport, Pods: core.Pods().Lister(), Nodes: core.Nodes().Lister(), Log: w.log}
}

// nodeProxy is upstream's nodes/proxy, except that it asks no resolver for the address of the node.
type nodeProxy struct {
	*noderest.ProxyREST
	kubelets *kubelets
}

func (p nodeProxy) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*api.NodeProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	_, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	info, err := p.kubelets.GetConnectionInfo(ctx, types.NodeName(name))
	if err != nil {
		return nil, err
	}
	if port != "" && port != info.Port {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("port %s of node %s cannot be reached: a node is reached over its link, where only %s answers", port, name, info.Port))
	}
	location := &url.URL{Scheme: info.Scheme, Host: net.JoinHostPort(info.Hostname, info.Port), Path: utilnet.JoinPreservingTrailingSlash("", o.Path)}
	return proxy.NewUpgradeAwareHandler(location, info.Transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// newPodTransport reaches pods for pods/proxy and services/proxy.
func newPodTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	return &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second, TLSClientConfig: insecure()}
}

// endpointSlices finds the endpoints of a service for services/proxy.
type endpointSlices struct {
	informers informers.SharedInformerFactory
}

func (e endpointSlices) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return e.informers.Discovery().V1().EndpointSlices().Lister().EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
}

package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/link"
)

// greeter is a session that says one thing: an agent is refused, or gets its certificate.
type greeter struct {
	session *link.Session
	until   time.Time
}

const maxGreeters = 512

// admit decides about an agent whose handshake is complete, and tells it.
func (d *Dispatcher) admit(ctx context.Context, place string, agent *link.Agent) {
	// Two boards of one name are decided about one after the other.
	lock := &d.naming[maphash.String(d.seed, agent.Name)%uint64(len(d.naming))]
	lock.Lock()
	defer lock.Unlock()
	greeting, err := d.decide(ctx, agent)
	if err == nil && greeting.Refused == 0 && agent.Certificate != nil {
		greeting.Incarnation = d.cfg.Cluster.Incarnation
		if err = d.connect(ctx, agent, greeting); err == nil {
			return
		}
	}
	if err != nil {
		d.log.Error("a node could not be admitted", "node", agent.Name, "err", err)
		greeting = link.Greeting{Refused: link.RefuseLater, Reason: "the server cannot decide now; it will be tried again"}
	}
	greeting.Incarnation = d.cfg.Cluster.Incarnation
	if greeting.Refused != 0 {
		d.log.Warn("node refused", "node", agent.Name, "instance", agent.Instance, "reason", greeting.Reason)
	}
	d.greet(place, agent, greeting)
}

func (d *Dispatcher) decide(ctx context.Context, agent *link.Agent) (link.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if agent.Certificate == nil {
		return d.admitJoining(ctx, agent)
	}
	return d.admitNode(ctx, agent)
}

// greet tells a decision in a session of its own.
func (d *Dispatcher) greet(place string, agent *link.Agent, greeting link.Greeting) {
	g := &greeter{link.NewSession(link.SessionConfig{Keys: agent.Keys, Greeting: greeting}), time.Now().Add(time.Minute)}
	d.mu.Lock()
	if len(d.greeters) < maxGreeters {
		d.greeters[place] = g
	}
	d.mu.Unlock()
	d.say(place, g)
}

func (d *Dispatcher) say(place string, g *greeter) {
	if frame, ok := g.session.Next(time.Now()); ok {
		d.publish(place, frame)
	}
}

// greetAgain repeats what an agent was told; it did not hear it.
func (d *Dispatcher) greetAgain(place string, now time.Time) {
	d.mu.Lock()
	g := d.greeters[place]
	d.mu.Unlock()
	if g != nil && now.Before(g.until) {
		g.session.Greet()
		d.say(place, g)
		return
	}
	if name, ok := link.NodeOf(place); ok {
		if n := d.node(name); n != nil {
			if s := n.current(); s != nil {
				s.Greet()
			}
		}
	}
}

func (d *Dispatcher) forgetGreeters(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for place, g := range d.greeters {
		if now.After(g.until) {
			delete(d.greeters, place)
		}
	}
}

func refuse(code link.RefuseCode, format string, args ...any) link.Greeting {
	return link.Greeting{Refused: code, Reason: fmt.Sprintf(format, args...)}
}

// admitNode decides about an agent with a certificate: it must hold the key that the Node names.
func (d *Dispatcher) admitNode(ctx context.Context, agent *link.Agent) (link.Greeting, error) {
	found, err := d.getNode(ctx, agent.Name)
	if err != nil {
		return link.Greeting{}, err
	}
	if found == nil && agent.Expired {
		return refuse(link.RefuseToken, "the certificate of node %q has expired and the cluster has no such node: join again with a new token (bramble token create)", agent.Name), nil
	}
	if found != nil {
		key, instance := found.Annotations[link.KeyAnnotation], found.Annotations[InstanceAnnotation]
		if key != "" && key != link.Fingerprint(agent.SPKI) {
			return refuse(link.RefuseReplaced, "node %q is another board now (instance %s): give this one another name with --node-name, and a new token (bramble token create)", agent.Name, instance), nil
		}
		last, _ := strconv.ParseUint(found.Annotations[SessionAnnotation], 10, 64)
		if key != "" && instance == agent.Instance && agent.Counter <= last {
			return refuse(link.RefuseCounter, "session %d of node %q is not newer than %d: two boards use the same key (was the card copied?), or the data folder was restored from a copy: remove the data folder of one with bramble reset --purge, and let it join with a new token and another name", agent.Counter, agent.Name, last), nil
		}
	}
	return link.Greeting{}, d.recordNode(ctx, agent, found)
}

// admitJoining decides about an agent with a token.
func (d *Dispatcher) admitJoining(ctx context.Context, agent *link.Agent) (link.Greeting, error) {
	token := "bramble1." + d.cfg.Identity.CAHash() + "." + agent.TokenID + "." + agent.TokenSecret
	if err := d.cfg.CheckToken(ctx, token); err != nil {
		return refuse(link.RefuseToken, "%v", err), nil
	}
	found, err := d.getNode(ctx, agent.Name)
	if err != nil {
		return link.Greeting{}, err
	}
	if found != nil {
		key, instance := found.Annotations[link.KeyAnnotation], found.Annotations[InstanceAnnotation]
		if key != "" && key != link.Fingerprint(agent.SPKI) {
			switch n := d.node(agent.Name); {
			case n != nil && n.isOnline():
				return refuse(link.RefuseName, "a board named %q is online already (instance %s): give this one another name with --node-name; if it is to replace that board, switch that one off, or run: kubectl delete node %s", agent.Name, instance, agent.Name), nil
			case (n == nil || !n.wasHeard()) && time.Since(d.started) <= link.OfflineAfter: // nobody can tell yet
				return refuse(link.RefuseLater, "a board named %q may be online (instance %s), the server has just been started: it will be tried again in a minute", agent.Name, instance), nil
			}
			if err := d.replace(ctx, agent.Name); err != nil {
				return link.Greeting{}, err
			}
		}
	}
	if err := d.recordNode(ctx, agent, found); err != nil {
		return link.Greeting{}, err
	}
	der, err := d.sign(agent.Name, agent.SPKI)
	if err != nil {
		return link.Greeting{}, fmt.Errorf("dispatch: certificate of node %s: %w", agent.Name, err)
	}
	d.log.Info("node joined", "node", agent.Name, "instance", agent.Instance)
	return link.Greeting{Certificate: der}, nil
}

func (d *Dispatcher) getNode(ctx context.Context, name string) (*corev1.Node, error) {
	n, err := d.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dispatch: read node %s: %w", name, err)
	}
	return n, nil
}

// replace removes what ran on a board whose place another one takes: nothing of it is left.
func (d *Dispatcher) replace(ctx context.Context, name string) error {
	d.log.Warn("node is replaced by another board; its pods are removed", "node", name)
	if n := d.node(name); n != nil {
		d.forget(n)
	}
	pods, err := d.cfg.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return fmt.Errorf("dispatch: pods of node %s: %w", name, err)
	}
	for i := range pods.Items {
		if err := d.removePod(ctx, &pods.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// recordNode writes who the node is: it is created, or its annotations are brought up to date.
func (d *Dispatcher) recordNode(ctx context.Context, agent *link.Agent, found *corev1.Node) error {
	annotations := map[string]string{
		link.KeyAnnotation: link.Fingerprint(agent.SPKI),
		InstanceAnnotation: agent.Instance,
		SessionAnnotation:  strconv.FormatUint(agent.Counter, 10),
	}
	nodes := d.cfg.Client.CoreV1().Nodes()
	if found == nil {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: agent.Name, Annotations: annotations, Labels: map[string]string{corev1.LabelHostname: agent.Name}}}
		_, err := nodes.Create(ctx, n, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return wrap(err, "create node %s", agent.Name)
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = nodes.Patch(ctx, agent.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return wrap(err, "record node %s", agent.Name)
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("dispatch: "+format+": %w", append(args, err)...)
}

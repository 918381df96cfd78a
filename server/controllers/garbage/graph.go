package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity says where an object is found.
type identity struct {
	resource  schema.GroupResource // in whichever version it is served at the time
	namespace string
	name      string
	uid       types.UID
}

// node is one object in the graph.
type node struct {
	id identity
	// known: the object was seen, or the API said that it exists; otherwise
	// somebody merely refers to it. gone: it was seen to be deleted, which no
	// later answer can undo, because UIDs are never used again.
	known, gone bool
	answered    bool // known by an answer of the API alone: who follows the resource has not come to it yet
	owners      []metav1.OwnerReference
	dependents  map[types.UID]*node
	deleting    bool // it is being deleted
	foreground  bool // and waits for its dependents
	orphaning   bool // or for them to be set free
}

// work is a question to be decided about an object.
type work struct {
	orphan bool // set its dependents free; otherwise: may it stay?
	uid    types.UID
}

// graph knows who belongs to whom. Its methods report what has to be looked at.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	ask   func(work) // called also with mu held; only enqueues
}

func newGraph(ask func(work)) *graph { return &graph{nodes: map[types.UID]*node{}, ask: ask} }

func has(m metav1.Object, finalizer string) bool {
	return slices.Contains(m.GetFinalizers(), finalizer)
}

// observe takes in the present metadata of an object.
func (g *graph) observe(resource schema.GroupResource, m metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(resource, m, false)
}

func (g *graph) take(resource schema.GroupResource, m metav1.Object, answered bool) {
	deleting := m.GetDeletionTimestamp() != nil
	foreground := deleting && has(m, metav1.FinalizerDeleteDependents)
	orphaning := deleting && has(m, metav1.FinalizerOrphanDependents)
	n, ok := g.nodes[m.GetUID()]
	if !ok {
		if len(m.GetOwnerReferences()) == 0 && !foreground && !orphaning {
			return
		}
		n = g.node(m.GetUID())
	}
	if n.gone {
		return
	}
	n.known, n.answered = true, answered
	n.id = identity{resource: resource, namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUID()}
	g.setOwners(n, m.GetOwnerReferences())
	n.deleting = deleting
	if foreground && !n.foreground {
		for _, d := range n.dependents {
			g.ask(work{uid: d.id.uid})
		}
		g.ask(work{uid: n.id.uid})
	}
	if orphaning && !n.orphaning {
		g.ask(work{orphan: true, uid: n.id.uid})
	}
	n.foreground, n.orphaning = foreground, orphaning
	g.drop(n)
}

func (g *graph) node(uid types.UID) *node {
	n := g.nodes[uid]
	if n == nil {
		n = &node{id: identity{uid: uid}, dependents: map[types.UID]*node{}}
		g.nodes[uid] = n
	}
	return n
}

// setOwners replaces an object's owners and asks about what follows from it.
func (g *graph) setOwners(n *node, owners []metav1.OwnerReference) {
	before := n.owners
	n.owners = slices.Clone(owners)
	for _, old := range before {
		now := slices.IndexFunc(owners, func(r metav1.OwnerReference) bool { return r.UID == old.UID })
		if now >= 0 && blocks(owners[now]) == blocks(old) {
			continue
		}
		if owner := g.nodes[old.UID]; owner != nil {
			if owner.foreground {
				g.ask(work{uid: old.UID}) // it may have less to wait for
			}
			if now < 0 {
				delete(owner.dependents, n.id.uid)
				g.drop(owner)
			}
		}
	}
	for _, ref := range owners {
		if slices.ContainsFunc(before, func(r metav1.OwnerReference) bool { return r.UID == ref.UID }) {
			continue
		}
		owner := g.node(ref.UID)
		owner.dependents[n.id.uid] = n
		if !owner.known || owner.gone || owner.foreground || !refersTo(ref, owner.id, n.id.namespace) {
			g.ask(work{uid: n.id.uid})
		}
	}
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// refersTo compares the coordinates of a reference with an object's; whoever
// writes a wrong name or namespace beside a right UID owns nothing.
func refersTo(r metav1.OwnerReference, id identity, namespace string) bool {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	return err == nil && gv.Group == id.resource.Group && r.Name == id.name && (id.namespace == "" || id.namespace == namespace)
}

// remove takes in that an object is gone.
func (g *graph) remove(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.nodes[uid]
	if !ok || n.gone {
		return
	}
	n.gone = true
	g.setOwners(n, nil)
	for _, d := range n.dependents {
		g.ask(work{uid: d.id.uid})
	}
	g.drop(n)
}

// drop forgets a node that says nothing.
func (g *graph) drop(n *node) {
	if len(n.dependents) == 0 && (n.gone || (len(n.owners) == 0 && !n.foreground && !n.orphaning)) {
		delete(g.nodes, n.id.uid)
	}
}

// confirm takes in what the API answered about an owner that was unknown.
func (g *graph) confirm(id identity, m metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.nodes[id.uid]; n != nil && !n.known && !n.gone {
		g.take(id.resource, m, true)
	}
}

// only takes in that of a resource no other objects are there than those that were observed. What the API answered about one meanwhile may
// be newer than that, so it is asked again.
func (g *graph) only(resource schema.GroupResource, present map[types.UID]bool) {
	for _, id := range g.of(resource) {
		switch n, _, ok := g.get(id.uid); {
		case !ok || present[id.uid]:
		case n.answered:
			g.ask(work{uid: id.uid})
		default:
			g.remove(id.uid)
		}
	}
}

// get returns a copy of a node with the nodes of its dependents.
func (g *graph) get(uid types.UID) (n node, dependents []node, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found, ok := g.nodes[uid]
	if !ok {
		return node{}, nil, false
	}
	for _, d := range found.dependents {
		dependents = append(dependents, *d)
	}
	return *found, dependents, true
}

// of gives the known objects of one resource.
func (g *graph) of(resource schema.GroupResource) []identity {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []identity
	for _, n := range g.nodes {
		if n.known && !n.gone && n.id.resource == resource {
			out = append(out, n.id)
		}
	}
	return out
}

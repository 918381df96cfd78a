package link

import "strings"

// A place is the part of a topic that stands for one agent. Topics are
//
//	bramble/<cluster>/n/<node>/up      from the node to the server
//	bramble/<cluster>/n/<node>/down    from the server to the node
//	bramble/<cluster>/n/<node>/gone    the node's last will, one byte
//	bramble/<cluster>/join/<id>/up     from an agent that has no certificate yet
//	bramble/<cluster>/join/<id>/down   to it
type Topics struct{ Cluster string }

// NodePlace is the place of a node.
func NodePlace(node string) string { return "n/" + node }

// JoinPlace is the place of an agent that joins; id is random and also its MQTT client id.
func JoinPlace(id string) string { return "join/" + id }

func isJoin(place string) bool { return strings.HasPrefix(place, "join/") }

func (t Topics) topic(place, leaf string) string {
	return "bramble/" + t.Cluster + "/" + place + "/" + leaf
}

// Up is where an agent at a place publishes.
func (t Topics) Up(place string) string { return t.topic(place, "up") }

// Down is what an agent at a place subscribes.
func (t Topics) Down(place string) string { return t.topic(place, "down") }

// Gone is where the broker publishes the last will of a node.
func (t Topics) Gone(place string) string { return t.topic(place, "gone") }

// Subscriptions are the filters of the server.
func (t Topics) Subscriptions() []string {
	return []string{t.Up(NodePlace("+")), t.Gone(NodePlace("+")), t.Up(JoinPlace("+"))}
}

// Parse splits a topic into place and leaf.
func (t Topics) Parse(topic string) (place, leaf string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "bramble/"+t.Cluster+"/")
	if !ok {
		return "", "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 || parts[1] == "" {
		return "", "", false
	}
	switch parts[0] + "/" + parts[2] {
	case "n/up", "n/down", "n/gone", "join/up", "join/down":
		return parts[0] + "/" + parts[1], parts[2], true
	}
	return "", "", false
}

// NodeOf returns the node of a place.
func NodeOf(place string) (string, bool) { return strings.CutPrefix(place, "n/") }

// ClientID is the MQTT client id of who is at a place. It is unique in the broker, so that a
// second connection ends the first. That of a node ends with its instance (see NodeClientID):
// two boards of one name must not throw each other out before the server has told them apart.
func ClientID(cluster, place string) string {
	return "bramble-" + cluster + "-" + strings.ReplaceAll(place, "/", "-")
}

// NodeClientID is the client id of one installation of a node.
func NodeClientID(cluster, node, instance string) string {
	return ClientID(cluster, NodePlace(node)) + "-" + instance
}

// IsClientOf reports whether a client id is that of somebody at a place.
func IsClientOf(id, cluster, place string) bool {
	rest, ok := strings.CutPrefix(id, ClientID(cluster, place))
	if isJoin(place) {
		return ok && rest == ""
	}
	return ok && len(rest) == 1+InstanceLength && rest[0] == '-' && isHex(rest[1:])
}

// InstanceLength is the length of the random hexadecimal id of an installation of a node.
const InstanceLength = 16

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// JoinIDLength is the length of the random hexadecimal id of a joining agent.
const JoinIDLength = 32

// IsJoinID reports whether id can be that of a joining agent.
func IsJoinID(id string) bool {
	return len(id) == JoinIDLength && isHex(id)
}

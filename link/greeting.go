package link

import "fmt"

// RefuseCode says why the server refused an agent.
type RefuseCode byte

// The codes of a refusal.
const (
	RefuseToken    RefuseCode = 1 // the token is unknown, wrong or has expired
	RefuseName     RefuseCode = 2 // the name is that of another board
	RefuseReplaced RefuseCode = 3 // another board took the node's place
	RefuseCounter  RefuseCode = 4 // a session as new or newer was seen: the key is on two boards
	RefuseLater    RefuseCode = 5 // the server cannot tell yet; try again
)

// Greeting is the server's first message in a session: it accepts the agent or refuses it.
type Greeting struct {
	Refused RefuseCode // 0: accepted
	Reason  string     // for people; names the remedy
	// Incarnation of the server's store: a new one means that a backup was restored.
	Incarnation string
	// For an agent that joined.
	Certificate []byte
}

// Refusal is the error of an agent that was refused.
type Refusal struct {
	Code   RefuseCode
	Reason string
}

func (r *Refusal) Error() string { return fmt.Sprintf("the server refused this node: %s", r.Reason) }

// Temporary reports whether trying again may help without anybody's doing.
func (r *Refusal) Temporary() bool { return r.Code == RefuseLater }

func (g *Greeting) kind() byte {
	if g.Refused != 0 {
		return typeRefuse
	}
	return typeAccept
}

func (g *Greeting) encode() []byte {
	var e encoder
	if g.Refused != 0 {
		e.byte(byte(g.Refused))
		e.string(g.Reason)
		return e.b
	}
	e.string(g.Incarnation)
	e.bytes(g.Certificate)
	return e.b
}

func decodeGreetingMessage(kind byte, body []byte) (g Greeting, err error) {
	d := decoder{b: body}
	if kind == typeRefuse {
		g.Refused, g.Reason = RefuseCode(d.byte()), d.string()
		if g.Refused == 0 {
			d.fail()
		}
		return g, d.end()
	}
	g.Incarnation = d.string()
	g.Certificate = append([]byte(nil), d.bytes()...)
	return g, d.end()
}

package dispatch

import (
	"context"
	"errors"

	"bramble.dev/link"
)

// serveStream serves a stream that an agent opened.
func (d *Dispatcher) serveStream(ctx context.Context, node string, st *link.Stream) {
	if st.Target() != link.TargetAPI || d.cfg.DialAPI == nil {
		st.Abort(errors.New("no such target: " + st.Target()))
		return
	}
	conn, err := d.cfg.DialAPI(ctx)
	if err != nil {
		d.log.Warn("stream to the API failed", "node", node, "err", err)
		st.Abort(err)
		return
	}
	link.Splice(st, conn)
}

package dispatch

import "time"

// Tests do not wait as long for a node that was cut off.
func init() {
	scanInterval, willTime, leaseInterval = 200*time.Millisecond, time.Second, 300*time.Millisecond
}

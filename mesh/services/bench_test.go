package services

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

// many is a configuration with n Services of three endpoints each.
func many(n int) Config {
	c := testConfig()
	for i := range n {
		name := fmt.Sprintf("s%04d", i)
		c.Services = append(c.Services, service(name, fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250), corev1.ServicePort{Port: 80}))
		c.Endpoints = append(c.Endpoints, slice(name, to("", 8080, "TCP"), ep(fmt.Sprintf("10.42.1.%d", 2+i%200), "n1"), ep(fmt.Sprintf("10.42.2.%d", 2+i%200), "n2"), ep(fmt.Sprintf("10.42.3.%d", 2+i%200), "n3")))
	}
	return c
}

// BenchmarkOneEndpoint is the cost of one endpoint that goes and comes back, in the kernel:
//
//	go test ./mesh/services -run - -bench OneEndpoint -count 6 | benchstat -col /services -
func BenchmarkOneEndpoint(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			ns := nstest.New(b, "n")
			ns.Must(func() error {
				conn, err := nft.Dial()
				if err != nil {
					return err
				}
				defer conn.Close()
				p := Open(conn, Options{Table: table})
				c := many(n)
				ctx := context.Background()
				if err := p.Set(ctx, c); err != nil {
					return err
				}
				i := n / 2
				name := c.Services[i].Name
				full, less := c.Endpoints[i], slice(name, to("", 8080, "TCP"), c.Endpoints[i].Endpoints[:2]...)
				a, z := slices.Clone(c.Endpoints), slices.Clone(c.Endpoints)
				a[i], z[i] = less, full
				b.ReportAllocs()
				k := 0
				for b.Loop() {
					if k++; k%2 == 1 {
						c.Endpoints = a
					} else {
						c.Endpoints = z
					}
					if err := p.Set(ctx, c); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// BenchmarkLoad is the cost of everything, into an empty kernel or in the place of an earlier table.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10, 5000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			ns := nstest.New(b, "n")
			ns.Must(func() error {
				conn, err := nft.Dial()
				if err != nil {
					return err
				}
				defer conn.Close()
				c := many(n)
				b.ReportAllocs()
				for b.Loop() {
					if err := Open(conn, Options{Table: table}).Set(context.Background(), c); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// BenchmarkPlan is the part of BenchmarkOneEndpoint that is not the kernel's.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 5000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			c := many(n)
			p := Open(nfttest.New(), Options{Table: table})
			p.apply(newChange(), newFlows(), c)
			i := n / 2
			full, less := c.Endpoints[i], slice(c.Services[i].Name, to("", 8080, "TCP"), c.Endpoints[i].Endpoints[:2]...)
			b.ReportAllocs()
			k := 0
			for b.Loop() {
				if k++; k%2 == 1 {
					c.Endpoints[i] = less
				} else {
					c.Endpoints[i] = full
				}
				ch := newChange()
				p.apply(ch, newFlows(), c)
				p.state.ops(table, ch)
			}
		})
	}
}

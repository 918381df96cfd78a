package api

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// renewSecrets writes every Secret anew that an older key encrypts, and takes the older keys away when there is none any more.
func (s *Server) renewSecrets(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, 10*time.Minute) {
		err := s.writeSecretsAnew(ctx)
		if err == nil {
			err = s.config.PKI.DropSecretsKeys()
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			s.log.Info("every Secret is encrypted with the new key, and the older key is gone from the folder: make a new backup")
			return
		}
		s.log.Error("Secrets cannot be encrypted with the new key yet; the older key is kept", "retry", wait, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// writeSecretsAnew updates each Secret with what it is: the store writes that only where an older key was used. Webhooks and policies
// are asked as for any update. One that cannot be written keeps no other from it.
func (s *Server) writeSecretsAnew(ctx context.Context) error {
	client := s.wiring.client.CoreV1()
	page := metav1.ListOptions{Limit: 100}
	var failed error // the first
	failures := 0
	for {
		list, err := client.Secrets("").List(ctx, page)
		if err != nil {
			return err
		}
		for _, secret := range list.Items {
			_, err := client.Secrets(secret.Namespace).Update(ctx, &secret, metav1.UpdateOptions{})
			// One that somebody else has changed or deleted meanwhile is written already.
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				if failures++; failures == 1 {
					failed = fmt.Errorf("%s/%s: %w", secret.Namespace, secret.Name, err)
				}
			}
		}
		if page.Continue = list.Continue; page.Continue == "" {
			if failures > 1 {
				failed = fmt.Errorf("%w, and %d more", failed, failures-1)
			}
			return failed
		}
	}
}

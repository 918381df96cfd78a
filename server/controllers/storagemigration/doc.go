// Package storagemigration writes all objects of a resource anew when a StorageVersionMigration asks for it (KEP-4192): in the version
// that the server stores now, and with the key that it encrypts with now. Of a custom resource it then strikes the older versions off
// status.storedVersions, so that they can be removed from the definition.
//
// Of one resource one migration runs at a time, the oldest first. An object that has changed since the migration began has been
// written anew by whoever changed it.
//
// Invariant: nothing of an object changes; an object that differs from what was listed is left alone.
//
//	l := storagemigration.New(storagemigration.Inputs{...})
//	l.Run(ctx)
//
// Tests: server/migration_test.go
package storagemigration

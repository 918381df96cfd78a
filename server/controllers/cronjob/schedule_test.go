package cronjob

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	"pgregory.net/rapid"

	batchv1 "k8s.io/api/batch/v1"
)

// due finds what counting all times one after the other finds.
func TestDueIsTheLatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom([]string{"* * * * *", "*/7 3-9 * * *", "30 6-16/4 * * 1-5", "0 0 29 2 *", "@hourly", "@every 7m", "59 23 1,15 * 0"}).Draw(t, "schedule")
		s, err := cron.ParseStandard(spec)
		if err != nil {
			t.Fatal(err)
		}
		after := time.Date(2026, 1, 1, 0, 0, rapid.IntRange(0, 59).Draw(t, "second"), 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 40000).Draw(t, "start")) * time.Minute)
		now := after.Add(time.Duration(rapid.IntRange(0, 1_000_000).Draw(t, "seconds"))*time.Second + time.Duration(rapid.IntRange(0, 999).Draw(t, "ms"))*time.Millisecond)
		var want time.Time
		for next := s.Next(after); !next.After(now); next = s.Next(next) {
			want = next
		}
		got, count, err := due(s, after, now)
		if err != nil || !got.Equal(want) {
			t.Fatalf("%s after %v until %v: %v (%v), want %v", spec, after, now, got, err, want)
		}
		if (count == 0) != want.IsZero() {
			t.Fatalf("%d are missed, the latest is %v", count, want)
		}
	})
}

func TestImpossibleDate(t *testing.T) {
	s, err := cron.ParseStandard("59 23 31 2 *")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := due(s, start, start.Add(time.Hour)); err == nil {
		t.Error("the 31st of February is no error")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "TZ=0", "CRON_TZ=UTC 1 2 3 4 5", "@every 1s", "61 * * * *", "TZ=Europe/Paris"} {
		f.Add(s, "Europe/Paris")
	}
	f.Fuzz(func(t *testing.T, schedule, zone string) {
		c := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: schedule, TimeZone: &zone}}
		if s, err := parse(c); err == nil && s == nil {
			t.Errorf("%q is neither read nor refused", schedule)
		}
	})
}

package policy

import (
	"fmt"
	"testing"
	"time"
)

var target = Target{"GET", "/wallets"}

// wantAllowed demands whether a 401 of tg with accessToken may cause a refresh.
func (r *Rejections) wantAllowed(t *testing.T, want bool, tg Target, accessToken string, at time.Duration) {
	t.Helper()
	if got := r.Allows(tg, accessToken, false, noon.Add(at)); got != want {
		t.Errorf("after %v, %v with %s: allowed %t, want %t", at, tg, accessToken, got, want)
	}
}

func TestThreeRefreshesThatDidNotHelpAreAllowedInFiveMinutes(t *testing.T) {
	var r Rejections
	for n := range 3 {
		at := time.Duration(n) * 10 * time.Second
		r.wantAllowed(t, true, Target{"GET", fmt.Sprint("/", n)}, fmt.Sprint(n), at)
		r.Refreshed(fmt.Sprint(n+1), false, noon.Add(at))
	}
	r.wantAllowed(t, false, Target{"GET", "/another"}, "3", 5*time.Minute-1)
	r.wantAllowed(t, false, Target{}, "3", 5*time.Minute-1) // Renew included
	r.wantAllowed(t, true, Target{"GET", "/another"}, "3", 5*time.Minute)
}

func TestTheSameTokenAgainIsARefreshOfItsOwn(t *testing.T) {
	var r Rejections
	for n := range 3 {
		at := time.Duration(n) * 10 * time.Second
		r.wantAllowed(t, true, Target{"GET", fmt.Sprint("/", n)}, "same", at)
		r.Refreshed("same", true, noon.Add(at))
	}
	r.wantAllowed(t, false, Target{"GET", "/another"}, "same", time.Minute)
}

func TestARefreshThatManyWaitedForCountsOnce(t *testing.T) {
	var r Rejections
	for range 10 {
		r.Refreshed("new", false, noon)
	}
	r.wantAllowed(t, true, target, "another", time.Second)
}

func TestARefreshThatHelpedDoesNotCount(t *testing.T) {
	var r Rejections
	for n := range 100 { // revoked as often as the API likes
		r.wantAllowed(t, true, target, fmt.Sprint(n), time.Duration(n)*time.Second)
		r.Refreshed(fmt.Sprint(n+1), false, noon.Add(time.Duration(n)*time.Second))
		r.Accepted(target, fmt.Sprint(n+1))
	}
	if !r.Over(noon) {
		t.Error("something is remembered of it")
	}
}

func TestANewTokenThatIsRefusedAtOnceIsNotRefreshed(t *testing.T) {
	var r Rejections
	r.Refreshed("new", false, noon)
	r.wantAllowed(t, false, target, "new", 5*time.Second-1)
	r.wantAllowed(t, true, target, "new", 5*time.Second)
	r.wantAllowed(t, true, target, "another", 0)
}

func TestAnEndpointThatRefusesNewTokensWaitsFiveSecondsAndThenFiveMinutes(t *testing.T) {
	var r Rejections
	r.Refused(target, noon)
	r.Refused(target, noon.Add(time.Second)) // one of many that overlap
	r.wantAllowed(t, false, target, "token", 5*time.Second-1)
	r.wantAllowed(t, true, target, "token", 5*time.Second)
	r.wantAllowed(t, true, Target{"GET", "/another"}, "token", 0)
	r.wantAllowed(t, true, Target{"POST", target.Path}, "token", 0)
	r.Refused(target, noon.Add(5*time.Second))
	r.wantAllowed(t, false, target, "token", 5*time.Second+5*time.Minute-1)
	r.wantAllowed(t, true, target, "token", 5*time.Second+5*time.Minute)
	r.wantAllowed(t, true, target, "token", time.Hour)
	r.Refused(target, noon.Add(time.Hour)) // forgotten by then
	r.wantAllowed(t, false, target, "token", time.Hour+5*time.Second-1)
	r.wantAllowed(t, true, target, "token", time.Hour+5*time.Second)
}

func TestAnEndpointThatTakesATokenStartsAnew(t *testing.T) {
	var r Rejections
	r.Refused(target, noon)
	r.Refused(target, noon.Add(5*time.Second))
	r.Accepted(target, "token")
	r.wantAllowed(t, true, target, "token", 6*time.Second)
	r.Refused(target, noon.Add(6*time.Second))
	r.wantAllowed(t, true, target, "token", 11*time.Second)
}

func TestAcceptedConcernsThatEndpointAndTokenOnly(t *testing.T) {
	var r Rejections
	r.Refused(target, noon)
	r.Refreshed("one", false, noon)
	r.Refreshed("two", false, noon)
	r.Accepted(Target{"GET", "/another"}, "one")
	r.wantAllowed(t, false, target, "three", time.Second)
	r.wantAllowed(t, false, Target{"GET", "/another"}, "two", time.Second)
	r.wantAllowed(t, true, Target{"GET", "/another"}, "one", time.Second)
}

func TestRejectionsAreBounded(t *testing.T) {
	var r Rejections
	for n := range 100 {
		r.Refused(Target{"GET", fmt.Sprint("/", n)}, noon)
	}
	if n := len(r.endpoints); n != maxEndpoints {
		t.Errorf("%d endpoints are remembered, want %d", n, maxEndpoints)
	}
	r.wantAllowed(t, true, Target{"GET", "/91"}, "token", 0)
	for n := 92; n < 100; n++ {
		r.wantAllowed(t, false, Target{"GET", fmt.Sprint("/", n)}, "token", 0)
	}
}

func TestNothingIsRememberedOnceItHasNoMoreEffect(t *testing.T) {
	var r Rejections
	if !r.Over(noon) {
		t.Error("the zero value remembers something")
	}
	r.Refreshed("new", false, noon)
	if r.Over(noon.Add(5*time.Minute-1)) || !r.Over(noon.Add(5*time.Minute)) {
		t.Error("a refresh is not remembered for five minutes")
	}
	r.Refused(target, noon)
	if end := 5*time.Second + 10*time.Minute; r.Over(noon.Add(end-1)) || !r.Over(noon.Add(end)) {
		t.Error("an endpoint is not remembered for ten minutes after its pause")
	}
}

func TestATokenThatHasExpiredSinceItWasNewIsNoReasonToSuspectItsEndpoint(t *testing.T) {
	var r Rejections
	target := Target{Method: "GET", Path: "/wallets"}
	r.Refreshed("token", false, noon)
	if r.Allows(target, "token", false, noon.Add(time.Second)) {
		t.Error("a new token that is refused at once is refreshed")
	}
	if !r.Allows(target, "token", true, noon.Add(time.Second)) {
		t.Error("one that has expired by then is not")
	}
}

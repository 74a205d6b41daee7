package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"sync"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/httptransport"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/go-logr/logr"
	"golang.org/x/oauth2"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"

	"github.com/walletauth/walletauth"
)

// Each peer is set up as its documentation says, with its own defaults. Where
// it takes a function that fetches a token, that is api.issue.
var (
	ours = &peer{
		name: "walletauth", module: "github.com/walletauth/walletauth",
		window: time.Minute, spread: 45 * time.Second, open: openOurs,
	}
	floor   = &peer{name: "bare copy", fixed: true, open: openFloor}
	xoauth2 = &peer{
		name: "x/oauth2", module: "golang.org/x/oauth2",
		window: 10 * time.Second, open: openOAuth2,
	}
	google = &peer{
		name: "google auth", module: "cloud.google.com/go/auth",
		window: 225 * time.Second, open: openGoogle,
	}
	azure = &peer{
		name: "azcore", module: "github.com/Azure/azure-sdk-for-go/sdk/azcore",
		window: 5 * time.Minute, pause: 30 * time.Second, open: openAzure,
	}
	awsCache = &peer{
		name: "aws cache", module: "github.com/aws/aws-sdk-go-v2",
		open: openAWS, // its window is 0 unless set
	}
	github = &peer{
		name: "ghinstallation", module: "github.com/bradleyfalzon/ghinstallation/v2",
		window: time.Minute, open: openGitHub,
	}
	kubernetes = &peer{
		name: "client-go", module: "k8s.io/client-go",
		open: openKubernetes,
	}

	refreshing = []*peer{ours, xoauth2, google, azure, awsCache, github, kubernetes}
	everyone   = append([]*peer{floor}, refreshing...)
)

// refresher lets a walletauth.Transport refresh at an api.
type refresher struct{ api *api }

func (r refresher) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	g, err := r.api.issue(ctx)
	if err != nil {
		return nil, &walletauth.RefreshError{StatusCode: http.StatusServiceUnavailable, Err: err}
	}
	next := *s
	next.AccessToken, next.AccessTokenExpiresAt = g.token, g.expires
	next.RefreshToken = "refresh-" + g.token
	return &next, nil
}

// session is what a login would have given. It says that it is a five-minute
// token's, of which only the last part may be left.
func session(user string, g grant) *walletauth.Session {
	return &walletauth.Session{
		ID: "session-of-" + user, CreatedAt: g.expires.Add(-5 * time.Minute), ProjectID: "project", UserID: user,
		AccessToken: g.token, AccessTokenExpiresAt: g.expires,
		RefreshToken: "refresh-" + g.token, RefreshTokenExpiresAt: time.Now().Add(720 * time.Hour),
	}
}

func openOurs(a *api, n int) ([]client, error) {
	store := &walletauth.MemoryStore{}
	rt := &walletauth.Transport{Store: store, BaseURL: a.url, Base: a.base, Refresher: refresher{a}}
	clients := make([]client, n)
	for i := range clients {
		user := fmt.Sprint("user-", i)
		ctx := walletauth.WithKey(context.Background(), user)
		if err := walletauth.Save(ctx, store, user, session(user, a.mint())); err != nil {
			return nil, err
		}
		clients[i] = client{rt, ctx}
	}
	return clients, nil
}

// bareCopy is the least that a transport can do to add three fields: it copies
// the request and its header map, and no values.
type bareCopy struct {
	base  http.RoundTripper
	added [3]string
	value []string
}

func (b *bareCopy) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.WithContext(req.Context())
	out.Header = make(http.Header, len(req.Header)+len(b.added))
	for name, values := range req.Header {
		out.Header[name] = values
	}
	for _, name := range b.added {
		out.Header[name] = b.value
	}
	return b.base.RoundTrip(out)
}

func openFloor(a *api, n int) ([]client, error) {
	rt := &bareCopy{a.base, [3]string{"Authorization", projectHeader, sourceHeader}, []string{"Bearer " + a.mint().token}}
	clients := make([]client, n)
	for i := range clients {
		clients[i] = client{rt, context.Background()}
	}
	return clients, nil
}

// oauth2Source fetches tokens for those that build on x/oauth2. Its interface
// has no context.
type oauth2Source struct{ api *api }

func (s oauth2Source) Token() (*oauth2.Token, error) {
	g, err := s.api.issue(context.Background())
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: g.token, Expiry: g.expires}, nil
}

func openOAuth2(a *api, n int) ([]client, error) {
	return each(a, n, func() (http.RoundTripper, error) {
		return &oauth2.Transport{Source: oauth2.ReuseTokenSource(nil, oauth2Source{a}), Base: a.base}, nil
	})
}

type googleProvider struct{ api *api }

func (p googleProvider) Token(ctx context.Context) (*auth.Token, error) {
	g, err := p.api.issue(ctx)
	if err != nil {
		return nil, err
	}
	return &auth.Token{Value: g.token, Expiry: g.expires}, nil
}

// The telemetry is left out, in its favour.
func openGoogle(a *api, n int) ([]client, error) {
	return each(a, n, func() (http.RoundTripper, error) {
		c, err := httptransport.NewClient(&httptransport.Options{
			Credentials: auth.NewCredentials(&auth.CredentialsOptions{
				TokenProvider: auth.NewCachedTokenProvider(googleProvider{a}, nil),
			}),
			BaseRoundTripper: a.base, DisableTelemetry: true,
		})
		if err != nil {
			return nil, err
		}
		return c.Transport, nil
	})
}

type azureCredential struct{ api *api }

func (c azureCredential) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	g, err := c.api.issue(ctx)
	return azcore.AccessToken{Token: g.token, ExpiresOn: g.expires}, err
}

// azurePipeline makes a RoundTripper of a pipeline. The pipeline writes to the
// request, so it gets a copy. Its retries and telemetry are left out, in its
// favour.
type azurePipeline struct{ pipeline runtime.Pipeline }

func (p azurePipeline) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := runtime.NewRequestFromRequest(shallow(req))
	if err != nil {
		return nil, err
	}
	return p.pipeline.Do(r)
}

type transporter struct{ http.RoundTripper }

func (t transporter) Do(req *http.Request) (*http.Response, error) { return t.RoundTrip(req) }

func openAzure(a *api, n int) ([]client, error) {
	return each(a, n, func() (http.RoundTripper, error) {
		bearer := runtime.NewBearerTokenPolicy(azureCredential{a}, []string{"scope"},
			&policy.BearerTokenOptions{InsecureAllowCredentialWithHTTP: true})
		return azurePipeline{runtime.NewPipeline("bench", "v1",
			runtime.PipelineOptions{PerRetry: []policy.Policy{bearer}},
			&policy.ClientOptions{
				Transport: transporter{a.base},
				Retry:     policy.RetryOptions{MaxRetries: -1},
				Telemetry: policy.TelemetryOptions{Disabled: true},
			})}, nil
	})
}

type awsProvider struct{ api *api }

func (p awsProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	g, err := p.api.issue(ctx)
	return aws.Credentials{
		AccessKeyID: "id", SecretAccessKey: "secret", SessionToken: g.token, CanExpire: true, Expires: g.expires,
	}, err
}

// awsTransport is the least that makes a RoundTripper of the cache, which signs
// requests in its own SDK.
type awsTransport struct {
	cache *aws.CredentialsCache
	base  http.RoundTripper
}

func (t awsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, err := t.cache.Retrieve(req.Context())
	if err != nil {
		return nil, err
	}
	out := shallow(req)
	out.Header.Set("Authorization", "Bearer "+c.SessionToken)
	return t.base.RoundTrip(out)
}

func openAWS(a *api, n int) ([]client, error) {
	return each(a, n, func() (http.RoundTripper, error) {
		return awsTransport{aws.NewCredentialsCache(awsProvider{a}), a.base}, nil
	})
}

// shallow copies the request and its header map, with room for one field more.
func shallow(req *http.Request) *http.Request {
	out := req.WithContext(req.Context())
	out.Header = make(http.Header, len(req.Header)+1)
	for name, values := range req.Header {
		out.Header[name] = values
	}
	return out
}

// appKey is the key of the app that an installation belongs to.
var appKey = sync.OnceValues(func() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
})

func openGitHub(a *api, n int) ([]client, error) {
	key, err := appKey()
	if err != nil {
		return nil, err
	}
	return each(a, n, func() (http.RoundTripper, error) {
		rt, err := ghinstallation.New(a.base, 1, 2, key)
		if err != nil {
			return nil, err
		}
		rt.BaseURL = a.url
		return rt, nil
	})
}

// quietKlog: client-go logs each fetch that failed.
var quietKlog = sync.OnceFunc(func() { klog.SetLogger(logr.Discard()) })

func openKubernetes(a *api, n int) ([]client, error) {
	quietKlog()
	return each(a, n, func() (http.RoundTripper, error) {
		source := transport.NewCachedTokenSource(oauth2Source{a})
		return transport.ResettableTokenSourceWrapTransport(source)(a.base), nil
	})
}

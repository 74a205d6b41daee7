// Package compat has no code of its own. Its tests put walletauth under the
// HTTP clients that programs already have, and are recipes at the same time:
// each shows the lines that it takes, says where the client needs care, and
// goes through three expiries of the access token and a revoked one without a
// failed call. docs/recipes.md is compiled here, too.
package compat

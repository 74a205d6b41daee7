// walletKit returns a function like fetch for WalletKit's API at baseURL. Tokens
// come from this page's own server.
export function walletKit(baseURL) {
  let token; // a promise: calls that start together share one request
  const ask = async refused => {
    const resp = await fetch("/token", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify({refused}),
    });
    if (!resp.ok) throw new Error(await resp.text()); // "Log in to see your wallets."
    const {access_token, project_id, expires_in} = await resp.json();
    return {access_token, project_id, until: Date.now() + 1000 * (expires_in - 10)}; // ask again before expiry
  };
  const current = async () => {
    if (token && Date.now() < (await token).until) return token;
    return renew("");
  };
  const renew = refused => {
    const asked = ask(refused);
    asked.catch(() => { if (token === asked) token = undefined; }); // the next call asks again
    return token = asked;
  };
  const send = (path, options, {access_token, project_id}) => fetch(baseURL + path, {
    ...options,
    headers: {
      ...options.headers,
      "Authorization": "Bearer " + access_token,
      "X-WalletKit-Project-ID": project_id,
      "X-WalletKit-Token-Source": "walletkit",
    },
  });
  return async (path, options = {}) => {
    const used = await current();
    const resp = await send(path, options, used);
    if (resp.status !== 401) return resp;
    return send(path, options, await renew(used.access_token)); // once
  };
}

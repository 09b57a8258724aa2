"""What needs a browser: `code AUTH_URL ISSUER` logs in with keystoneauth's plugin for codes and prints who and where;
`websso AUTH_URL ORIGIN` goes the way of a dashboard's user and prints where the token would be sent and whose it is."""

import re
import sys
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from keystoneauth1 import session
from keystoneauth1.identity import v3


def consent(browser, url):
    """Says yes at the provider; where it sends the browser."""
    answer = browser.post(url, data={"sub": "u-bob"}, allow_redirects=False, timeout=20)
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def code(auth_url, issuer):
    redirect = "http://127.0.0.1:9402/back"
    query = {"response_type": "code", "client_id": "madang", "redirect_uri": redirect, "scope": "openid profile email"}
    back = consent(requests, f"{issuer}/oauth2/authorize?{urlencode(query)}")
    plugin = v3.OidcAuthorizationCode(
        auth_url, "sso", "openid", "madang", "hush", access_token_endpoint=f"{issuer}/oauth2/token",
        redirect_uri=redirect, code=parse_qs(urlsplit(back).query)["code"][0],
        project_name="lab", project_domain_name="Default",
    )  # fmt: skip
    access = plugin.get_access(session.Session())
    print(access.username, access.project_name)


def websso(auth_url, origin):
    browser = requests.Session()
    start = f"{auth_url.rstrip('/').removesuffix('/v3')}/v3/auth/OS-FEDERATION/websso/openid"
    assert requests.get(start, params={"origin": "http://evil.example.org/"}, timeout=20).status_code == 401
    away = browser.get(start, params={"origin": origin}, allow_redirects=False, timeout=20)
    assert away.status_code == 302, away.text
    back = consent(browser, away.headers["Location"])
    assert requests.get(back, timeout=20).status_code == 401, "another browser comes back"
    away = browser.get(start, params={"origin": origin}, allow_redirects=False, timeout=20)
    page = browser.get(consent(browser, away.headers["Location"]), timeout=20)
    assert page.status_code == 200, page.text
    action = unescape(re.search(r'action="([^"]+)"', page.text)[1])
    token = unescape(re.search(r'name="token" value="([^"]+)"', page.text)[1])
    headers = {"X-Auth-Token": token, "X-Subject-Token": token}
    url = f"{auth_url.rstrip('/').removesuffix('/v3')}/v3/auth/tokens"
    print(action, requests.get(url, headers=headers, timeout=20).json()["token"]["user"]["name"])


if __name__ == "__main__":
    {"code": code, "websso": websso}[sys.argv[1]](*sys.argv[2:])

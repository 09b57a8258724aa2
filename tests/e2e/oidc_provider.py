"""An OpenID Connect provider for the tests: oidc-provider-mock, with the grants of command line clients beside.

    oidc_provider.py PORT

Users with the password `secret`: bob (in the group staff) and eve (in none). Clients get signed tokens for a password and for
themselves, as Keycloak gives them, and opaque ones for a browser's code, as the mock gives them.
"""

import os
import secrets
import sys
import time
from datetime import datetime, timedelta, timezone

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import flask
import oidc_provider_mock
from authlib.jose import jwt
from oidc_provider_mock._storage import AccessToken, Client, User, storage

PORT = int(sys.argv[1])
ISSUER = f"http://127.0.0.1:{PORT}"
SECRET = "hush"
USERS = [
    User(sub="u-bob", claims={"preferred_username": "bob", "email": "bob@example.com", "groups": ["staff", "chess"]}),
    User(sub="u-eve", claims={"preferred_username": "eve", "email": "eve@example.com", "groups": ["chess"]}),
]
ROBOT = User(sub="u-robot", claims={"preferred_username": "robot", "groups": ["staff"]})

Client.GRANT_TYPES_SUPPORTED += ("password", "client_credentials")
app = flask.Flask("provider")
app.secret_key = secrets.token_bytes(16)
oidc_provider_mock.init_app(app, user_claims=USERS)


@app.before_request
def other_grants():
    """What the mock does not do: it goes on where this gives nothing."""
    form = flask.request.form
    grant = form.get("grant_type")
    if flask.request.path != "/oauth2/token" or grant not in ("password", "client_credentials"):
        return None
    client = flask.request.authorization
    if client is None or client.password != SECRET:
        return {"error": "invalid_client"}, 401
    if grant == "client_credentials":
        user = ROBOT
    else:
        user = next((user for user in USERS if user.claims["preferred_username"] == form.get("username")), None)
        if user is None or form.get("password") != "secret":
            return {"error": "invalid_grant"}, 400
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "account", "azp": client.username, "sub": user.sub, "iat": now, "exp": now + 300, **user.claims}
    key = storage.jwk.as_dict(is_private=True)
    token = jwt.encode({"alg": "RS256", "kid": key["kid"]}, claims, key).decode()
    storage.store_user(user)
    end = datetime.now(timezone.utc) + timedelta(seconds=300)
    storage.store_access_token(AccessToken(token=token, user_id=user.sub, scope="openid profile email", expires_at=end))
    return {"access_token": token, "token_type": "Bearer", "expires_in": 300}


app.run("127.0.0.1", PORT, use_reloader=False)

"""Makes the container `silver` in Azurite, by the one request of the blob service that no client here has.

    python azure_container.py ENDPOINT
"""

import base64
import hashlib
import hmac
import sys
from datetime import datetime, timezone
from urllib.request import Request, urlopen

# Azurite's own, as Microsoft documents them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"

date = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
empty = "\n" * 12
signed = f"PUT{empty}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/silver\nrestype:container"
signature = base64.b64encode(hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()).decode()
headers = {"x-ms-date": date, "x-ms-version": VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
urlopen(Request(f"{sys.argv[1]}/{ACCOUNT}/silver?restype=container", method="PUT", headers=headers)).close()

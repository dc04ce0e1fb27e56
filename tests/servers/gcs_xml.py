"""The part of Google Cloud Storage's XML API that fake-gcs-server lacks, in front of it.

fake-gcs-server answers the XML API's reads. Uploads it takes through the JSON API alone, and there the multipart ones honour
`ifGenerationMatch`. So an XML `PUT /bucket/object` becomes such an upload, with `x-goog-if-generation-match` as its condition, and a
listing after an offset loses what lies before it. Everything else passes through as it is.

    python gcs_xml.py PORT PORT_OF_FAKE_GCS_SERVER
"""

import http.client
import json
import re
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def ask(self, method, path, body, headers):
        """What the server behind answers: status, headers, body."""
        behind = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
        behind.request(method, path, body=body, headers={**headers, "Host": self.headers["Host"]})
        answer = behind.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        behind.close()
        return found

    def reply(self, status, headers, body, length=None):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)) if length is None else length)
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        url = urlsplit(self.path)
        parts = url.path.lstrip("/").split("/", 1)
        if self.command == "PUT" and len(parts) == 2 and not url.query and parts[0] not in ("storage", "upload", "_internal"):
            return self.upload(parts[0], unquote(parts[1]), body)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        status, headers, answer = self.ask(self.command, self.path, body or None, kept)
        after = parse_qs(url.query).get("start-after")
        if after and status == 200:
            answer = without(answer.decode(), after[0]).encode()
        length = dict((name.lower(), value) for name, value in headers).get("content-length")
        self.reply(status, headers, answer, length if self.command == "HEAD" else None)

    def upload(self, bucket, name, body):
        wanted = self.headers.get("x-goog-if-generation-match")
        condition = "" if wanted is None else f"&ifGenerationMatch={wanted}"
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quote(name, safe='')}{condition}"
        edge = uuid.uuid4().hex
        parts = [("application/json", json.dumps({"name": name}).encode()), ("application/octet-stream", body)]
        whole = b"".join(f"--{edge}\r\nContent-Type: {kind}\r\n\r\n".encode() + part + b"\r\n" for kind, part in parts)
        whole += f"--{edge}--\r\n".encode()
        kind = f"multipart/related; boundary={edge}"
        status, _, answer = self.ask("POST", path, whole, {"Content-Type": kind, "Content-Length": str(len(whole))})
        if status != 200:
            return self.reply(status, [("Content-Type", "application/json")], answer)
        made = json.loads(answer)
        self.reply(200, [("ETag", f'"{made["etag"]}"'), ("x-goog-generation", str(made["generation"]))], b"")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, *_):
        pass


def without(listing, after):
    """A listing without the objects up to and with an offset."""
    kept = lambda found: "" if re.search(r"<Key>(.*?)</Key>", found[0], re.S)[1] <= after else found[0]
    return re.sub(r"<Contents>.*?</Contents>", kept, listing, flags=re.S)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front).serve_forever()

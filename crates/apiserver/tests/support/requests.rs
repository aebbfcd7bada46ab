//! Whole requests, written as one would type them (`POST /path?query`, headers, an empty line, a body), answered by a server in
//! process. Whatever is written is a dry run, so that each request meets the same objects.

use std::sync::{Arc, LazyLock};

use api::admission::Admitted;
use apiserver::{Hooks, Server, Settings};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, Request, Response};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub(crate) type Parser = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub(crate) const PARSERS: &[Parser] = &[("api-request", request, seeds)];

struct Running {
    runtime: Runtime,
    server: Server,
    _folder: TempDir,
}

/// Objects that the requests are about.
const OBJECTS: &[(&str, &str)] = &[
    (
        "/api/v1/namespaces/default/pods",
        r#"{"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}"#,
    ),
    (
        "/api/v1/namespaces/default/configmaps",
        r#"{"metadata": {"name": "m", "finalizers": ["x/y"]}, "data": {"k": "v"}}"#,
    ),
    (
        "/apis/apps/v1/namespaces/default/deployments",
        r#"{"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}"#,
    ),
    (
        "/api/v1/namespaces/default/services",
        r#"{"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}"#,
    ),
    (
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        r#"{"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}}, "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}], "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}, "list": {"type": "array", "items": {"type": "string"}}}}}}}}]}}"#,
    ),
    (
        "/apis/example.com/v1/namespaces/default/widgets",
        r#"{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"list": ["a"]}}"#,
    ),
];

static RUNNING: LazyLock<Running> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hooks = Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|_| async { Err(api::Status::bad_request("nothing runs here")) }.boxed()),
        logs: Arc::new(|_| async { Ok(Box::new(&b"line\n"[..]) as apiserver::LogStream) }.boxed()),
        forward: Arc::new(|_| async { Err(api::Status::unavailable("no pods here")) }.boxed()),
        extension: Arc::new(|_| async { None }.boxed()),
    };
    let settings = Settings { data_dir: folder.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap() };
    let server = Server::open(settings, hooks).unwrap();
    for (path, body) in OBJECTS {
        let made =
            runtime.block_on(server.call(Request::post(*path).body(Bytes::from_static(body.as_bytes())).unwrap()));
        assert_eq!(made.status(), 201, "{path}");
    }
    Running { runtime, server, _folder: folder }
});

/// A request is answered; what is no success says why, in the shape of Kubernetes and under its own code, and nothing is our fault.
pub(crate) fn request(bytes: &[u8]) {
    let Some(request) = read(bytes) else { return };
    let Running { runtime, server, .. } = &*RUNNING;
    let head = request.method() == Method::HEAD;
    let shown = format!("{} {} {}", request.method(), request.uri(), request.body().escape_ascii());
    runtime.block_on(async {
        let response: Response<_> = server.call(request).await;
        let code = response.status();
        assert!(!code.is_server_error(), "{code}: {shown}");
        if code.is_success() {
            // Of a watch only what is there is read.
            drop(response.into_body().next().now_or_never());
            return;
        }
        let whole = response.into_body().bytes().now_or_never();
        let body = whole.unwrap_or_else(|| panic!("an error without an end: {shown}"));
        // Of a path that nobody serves real servers say so in plain words.
        if code.is_client_error() && !head && *body != *b"404 page not found\n" {
            let status: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no JSON at {code}: {shown}"));
            assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &code.as_u16().into()), "{shown}");
            assert!(status["message"].as_str().is_some_and(|message| !message.is_empty()), "{shown}");
        }
    });
}

fn read(bytes: &[u8]) -> Option<Request<Bytes>> {
    let (head, body) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &b""[..]),
    };
    let head = String::from_utf8_lossy(head);
    let (first, headers) = head.split_once('\n').unwrap_or((&head, ""));
    let (method, uri) = first.split_once(' ')?;
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut request = Request::builder().method(method).uri(format!("{path}?dryRun=All&{query}"));
    for (name, value) in headers.lines().filter_map(|line| line.split_once(':')) {
        request = request.header(name.trim(), value.trim());
    }
    request.body(Bytes::copy_from_slice(body)).ok()
}

/// One request of each kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let default = "/api/v1/namespaces/default";
    let patch =
        |kind: &str, path: &str, body: &str| format!("PATCH {path}\nContent-Type: application/{kind}\n\n{body}");
    [
        format!("GET {default}/pods?labelSelector=a%3Db,c!%3Dd&fieldSelector=metadata.name%3Dp&limit=1\n{TABLE}"),
        format!("GET {default}/pods/p\nAccept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        format!("GET {default}/pods?watch=1&resourceVersion=1&timeoutSeconds=5&allowWatchBookmarks=true"),
        format!("GET {default}/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\n{TABLE}"),
        format!("GET {default}/pods/p/log?tailLines=3&sinceTime=2026-01-31T12:00:00Z&limitBytes=7"),
        format!("POST {default}/pods/p/exec?command=sh&stdin=1&stdout=1\nConnection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io"),
        "GET /apis/example.com/v1/namespaces/default/widgets?continue=eyJ4IjoxfQ&limit=2\nAccept: application/json;as=Table;v=v1".to_owned(),
        "GET /openapi/v3/apis/apps/v1?hash=x\nAccept: */*".to_owned(),
        "GET /api\nAccept: application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io".to_owned(),
        format!("POST {default}/pods?fieldValidation=Strict\nContent-Type: application/json\n\n{}", OBJECTS[0].1.replace("\"p\"", "\"q\"")),
        format!("POST {default}/services\nContent-Type: application/yaml\n\nmetadata: {{name: t}}\nspec:\n  ports: [{{port: 80, targetPort: http}}]\n  type: NodePort\n"),
        format!("POST {default}/configmaps\nContent-Type: application/vnd.kubernetes.protobuf\n\nk8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x05\n\x03\n\x01z"),
        format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{}", OBJECTS[4].1.replace("widgets", "gadgets")),
        format!("POST {default}/serviceaccounts/default/token\n\n{{\"spec\": {{\"audiences\": [\"a\"], \"expirationSeconds\": 600}}}}"),
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews\n\n{\"apiVersion\": \"authorization.k8s.io/v1\", \"kind\": \"SelfSubjectAccessReview\", \"spec\": {}}".to_owned(),
        format!("PUT {default}/configmaps/m\n\n{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"m\", \"resourceVersion\": \"3\"}}, \"data\": {{}}}}"),
        "PUT /apis/apps/v1/namespaces/default/deployments/d/scale\n\n{\"spec\": {\"replicas\": 3}}".to_owned(),
        "PUT /api/v1/namespaces/default/finalize\n\n{\"metadata\": {\"name\": \"default\"}, \"spec\": {\"finalizers\": []}}".to_owned(),
        patch("json-patch+json", &format!("{default}/pods/p"), "[{\"op\": \"replace\", \"path\": \"/metadata/labels/a\", \"value\": \"c\"}]"),
        patch("merge-patch+json", "/apis/example.com/v1/namespaces/default/widgets/w/scale", "{\"spec\": {\"replicas\": 2}}"),
        patch("strategic-merge-patch+json", "/apis/apps/v1/namespaces/default/deployments/d", "{\"spec\": {\"template\": {\"spec\": {\"containers\": [{\"name\": \"c\", \"image\": \"j\"}]}}}}"),
        patch("merge-patch+json", &format!("{default}/services/s/status"), "{\"status\": {\"loadBalancer\": {\"ingress\": [{\"ip\": \"10.0.0.1\"}]}}}"),
        format!("DELETE {default}/configmaps/m\n\n{{\"kind\": \"DeleteOptions\", \"apiVersion\": \"v1\", \"propagationPolicy\": \"Foreground\", \"preconditions\": {{\"uid\": \"x\"}}}}"),
        format!("DELETE {default}/pods?labelSelector=a&gracePeriodSeconds=0"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

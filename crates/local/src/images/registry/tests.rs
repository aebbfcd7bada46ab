use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::tar::tests::Builder;
use super::*;
use crate::images::architecture;

/// A registry on this machine: what it answers, and what it was asked.
struct Served {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// What a request must say of the asker, and what is asked of whoever says nothing.
    demand: Arc<Mutex<Option<(String, String)>>>,
}

impl Served {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = Self { address, asked: Arc::default(), answers: Arc::default(), demand: Arc::default() };
        let (asked, answers, demand) =
            (Arc::clone(&served.asked), Arc::clone(&served.answers), Arc::clone(&served.demand));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
                let said = head.iter().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
                asked.lock().unwrap().push(format!("{path} {said}").trim().to_owned());
                let refused =
                    demand.lock().unwrap().clone().filter(|(wanted, _)| wanted != said && path.starts_with("/v2/"));
                let answer = match (refused, answers.lock().unwrap().get(&path)) {
                    (Some((_, challenge)), _) => format!(
                        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n"
                    )
                    .into_bytes(),
                    (None, Some(text)) if text.starts_with(b"HTTP/") => text.clone(),
                    (None, Some(text)) => {
                        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len()).as_bytes(), text].concat()
                    }
                    (None, None) => {
                        let text = r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#;
                        format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes()
                    }
                };
                // Whoever asked may have heard enough.
                drop(stream.write_all(&answer));
            }
        });
        served
    }

    fn put(&self, path: &str, text: impl Into<Vec<u8>>) {
        self.answers.lock().unwrap().insert(path.to_owned(), text.into());
    }

    fn blob(&self, text: &[u8]) -> Value {
        let digest = Digest::of(text);
        self.put(&format!("/v2/team/app/blobs/{digest}"), text);
        json!({ "digest": digest.to_string(), "size": text.len() })
    }

    /// Serves an image of one layer; its manifest.
    fn image(&self, content: &str) -> Value {
        let layer = Builder::default().file("app", content).bytes();
        let config = json!({ "os": "linux", "architecture": architecture(), "rootfs": { "diff_ids": [Digest::of(&layer).to_string()] } });
        let (config, layer) = (self.blob(config.to_string().as_bytes()), self.blob(&layer));
        json!({ "schemaVersion": 2, "config": config, "layers": [layer] })
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    async fn pull(&self, store: &Store, version: &str, credentials: &[Credentials]) -> Result<Stored, String> {
        let reference = Reference::parse(&format!("{}/team/app{version}", self.address)).unwrap();
        pull(store, &reference, credentials).await
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::of(&home.path().canonicalize().unwrap());
    (home, store)
}

#[tokio::test]
async fn an_image_is_pulled_once_and_what_is_here_is_not_fetched_again() {
    let (served, (_home, store)) = (Served::new(), store());
    let manifest = served.image("one").to_string();
    let own = Digest::of(manifest.as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [
        { "digest": own.to_string(), "size": 1, "platform": { "os": "linux", "architecture": architecture() } }] });
    let index = index.to_string();
    served.put("/v2/team/app/manifests/1", index.clone());
    served.put(&format!("/v2/team/app/manifests/{own}"), manifest.clone());
    let pulled = served.pull(&store, ":1", &[]).await.unwrap();
    assert_eq!(pulled.digests, [Digest::of(index.as_bytes()), own.clone()]);
    assert_eq!(std::fs::read_to_string(store.layer(&pulled.layers[0]).join("app")).unwrap(), "one");
    assert_eq!(served.asked().len(), 4, "index, manifest, configuration, layer");
    let again = served.pull(&store, ":1", &[]).await.unwrap();
    assert_eq!((again, served.asked().as_slice()), (pulled, ["/v2/team/app/manifests/1".to_owned()].as_slice()));
    // By its digest it is the same image; under another name it is named anew, and its layer is not fetched again.
    served.pull(&store, &format!("@{own}"), &[]).await.unwrap();
    assert_eq!(served.asked(), [format!("/v2/team/app/manifests/{own}")]);
    served.put("/v2/team/app/manifests/same", index);
    let same = served.pull(&store, ":same", &[]).await.unwrap();
    let layer = same.layers[0].to_string();
    let asked = served.asked();
    assert!(asked.len() == 3 && !asked.iter().any(|path| path.contains(&layer)), "{asked:?}");
    // The tag leads to another image now.
    served.put("/v2/team/app/manifests/1", served.image("two").to_string());
    let other = served.pull(&store, ":1", &[]).await.unwrap();
    assert_eq!(std::fs::read_to_string(store.layer(&other.layers[0]).join("app")).unwrap(), "two");
    assert_eq!(store.list().unwrap().len(), 2);
}

#[tokio::test]
async fn what_a_registry_sends_must_be_what_its_digest_says() {
    let (served, (home, store)) = (Served::new(), store());
    let manifest = served.image("one");
    let (layer, config) =
        (manifest["layers"][0]["digest"].as_str().unwrap(), manifest["config"]["digest"].as_str().unwrap());
    let text = manifest.to_string();
    served.put("/v2/team/app/manifests/1", text.clone());
    let other = Digest::of(b"other");
    served.put(&format!("/v2/team/app/manifests/{other}"), text);
    let good = served.answers.lock().unwrap().clone();
    let long = Builder::default().file("app", "one").file("more", "x").bytes();
    for (version, path, answer, why) in [
        (format!("@{other}"), String::new(), None, "was promised"),
        (":1".to_owned(), format!("/v2/team/app/blobs/{config}"), Some(b"{}".to_vec()), "was promised"),
        (
            ":1".to_owned(),
            format!("/v2/team/app/blobs/{layer}"),
            Some(Builder::default().file("app", "two").bytes()),
            "was promised",
        ),
        (":1".to_owned(), format!("/v2/team/app/blobs/{layer}"), Some(long), "longer than its manifest says"),
        (":1".to_owned(), format!("/v2/team/app/blobs/{layer}"), Some(Builder::default().bytes()), "was promised"),
        (":1".to_owned(), format!("/v2/team/app/blobs/{layer}"), None, "MANIFEST_UNKNOWN"),
        (":2".to_owned(), String::new(), None, "there is no such image or tag"),
        (":1".to_owned(), "/v2/team/app/manifests/1".to_owned(), Some(vec![b' '; 5 << 20]), "longer than"),
        (
            ":1".to_owned(),
            "/v2/team/app/manifests/1".to_owned(),
            Some(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()),
            "503",
        ),
        (":1".to_owned(), "/v2/team/app/manifests/1".to_owned(), Some(b"odd".to_vec()), "neither an index nor"),
        (
            ":1".to_owned(),
            "/v2/team/app/manifests/1".to_owned(),
            Some(b"HTTP/1.1 307 x\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n".to_vec()),
            "plain HTTP",
        ),
        (
            ":1".to_owned(),
            "/v2/team/app/manifests/1".to_owned(),
            Some(b"HTTP/1.1 307 x\r\nlocation: /v2/team/app/manifests/1\r\ncontent-length: 0\r\n\r\n".to_vec()),
            "led on more than",
        ),
    ] {
        served.answers.lock().unwrap().clone_from(&good);
        if let Some(answer) = answer {
            served.put(&path, answer);
        } else {
            served.answers.lock().unwrap().remove(&path);
        }
        let said = served.pull(&store, &version, &[]).await.unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(store.list().unwrap(), [], "{why}");
        for folder in ["layers", "staging"] {
            let left = std::fs::read_dir(home.path().join("images").join(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{why}");
        }
    }
}

#[tokio::test]
async fn a_registry_is_shown_what_it_asks_for_and_nobody_else_is() {
    let (served, elsewhere, (_home, store)) = (Served::new(), Served::new(), store());
    let manifest = served.image("one");
    served.put("/v2/team/app/manifests/1", manifest.to_string());
    let file = |host: &str| json!({ "auths": { host: { "username": "ann", "password": "pw" } } }).to_string();
    let credentials = Credentials::of_docker(file(&served.address).as_bytes());
    let basic = "Basic YW5uOnB3";
    *served.demand.lock().unwrap() = Some((basic.to_owned(), "Basic realm=\"r\"".to_owned()));
    let said = served.pull(&store, ":1", &[]).await.unwrap_err();
    assert!(said.contains("401") && said.contains("imagePullSecrets"), "{said}");
    served.asked();
    served.pull(&store, ":1", &credentials).await.unwrap();
    assert_eq!(
        served.asked()[..2],
        ["/v2/team/app/manifests/1".to_owned(), format!("/v2/team/app/manifests/1 {basic}")]
    );
    // A token, from somewhere else, for this repository; credentials go there with the question for it.
    let realm = format!("http://{}/token?a=b", elsewhere.address);
    let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\"");
    *served.demand.lock().unwrap() = Some(("Bearer t0ken".to_owned(), challenge));
    let question = "/token?a=b&service=reg&scope=repository:team/app:pull";
    elsewhere.put(question, r#"{"token": "t0ken"}"#);
    // Layers lie at a third, who is told nothing.
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let third = Served::new();
    third.put("/layer", Builder::default().file("app", "one").bytes());
    let redirected = format!("HTTP/1.1 307 x\r\nlocation: http://{}/layer\r\ncontent-length: 0\r\n\r\n", third.address);
    served.put(&format!("/v2/team/app/blobs/{layer}"), redirected);
    let (_other, fresh) = self::store();
    served.pull(&fresh, ":1", &credentials).await.unwrap();
    assert_eq!(elsewhere.asked(), [format!("{question} {basic}")]);
    assert_eq!(third.asked(), ["/layer"]);
    // One that gives no token, and one whose token is refused again and again.
    elsewhere.put(question, r#"{"token": "wrong"}"#);
    assert!(served.pull(&fresh, ":1", &credentials).await.unwrap_err().contains("401"));
    elsewhere.put(question, "{}");
    assert!(served.pull(&fresh, ":1", &credentials).await.unwrap_err().contains("gives no token"));
}

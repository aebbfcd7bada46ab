//! Playing one step on the demo's mesh, through the same API that kubectl would use.

use anyhow::{Context, Result, anyhow, bail};
use api::kinds::Kinds;
use api::object::Object;
use bytes::Bytes;
use control::walkthrough::Step;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::script::{self, Action};
use crate::mesh::Mesh;

/// What a step did.
#[derive(Debug)]
pub(super) struct Told {
    /// What the command prints.
    pub(super) output: String,
    /// Why it came out so.
    pub(super) why: String,
}

/// Plays steps one after another, like one shell.
#[derive(Debug)]
pub(super) struct Player<'a> {
    mesh: &'a Mesh,
    /// `$TCP_ECHO_IP`, once a step has found it.
    address: String,
}

impl<'a> Player<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, address: String::new() }
    }

    pub(super) async fn play(&mut self, step: &Step) -> Result<Told> {
        let action = script::read(&step.command, &self.address).context("the demo does not know this command")?;
        match action {
            Action::Shell => Ok(told("", "a step for a shell of your own; the demo talks to its mesh directly")),
            Action::CreateNamespace(name) => {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                self.send(Method::POST, "/api/v1/namespaces", &namespace).await?;
                Ok(told(&format!("namespace/{name} created\n"), "workloads and policies live in namespaces"))
            }
            Action::Label { namespace, key, value } => {
                let path = format!("/api/v1/namespaces/{namespace}");
                let labels = json!({"metadata": {"labels": {key: value}}});
                self.send(Method::PATCH, &path, &labels).await?;
                Ok(told(
                    &format!("namespace/{namespace} labeled\n"),
                    "pods that are created here from now on join the mesh",
                ))
            }
            Action::ApplySample { file, namespace, inject } => self.sample(&file, &namespace, inject).await,
            Action::ApplyText(text) => self.apply(&text, None, "").await,
            Action::FindAddress { selector } => {
                let pod = self.pod("foo", &selector).await?;
                pod.str_at("/status/podIP").clone_into(&mut self.address);
                let why =
                    format!("the pod's own address is {}: port 9002 has no Service to be reached by", self.address);
                Ok(told("", &why))
            }
            Action::Probe { selector, container, namespace, script } => {
                self.probe(&namespace, &selector, &container, &script).await
            }
            Action::DeleteNamespace(name) => {
                self.send(Method::DELETE, &format!("/api/v1/namespaces/{name}"), &Value::Null).await?;
                self.mesh.gone("namespaces", &name).await?;
                Ok(told(
                    &format!("namespace \"{name}\" deleted\n"),
                    "its pods, their addresses and their tables are gone with it",
                ))
            }
        }
    }

    async fn sample(&self, file: &str, namespace: &str, inject: bool) -> Result<Told> {
        let known = control::samples::FILES.iter().find(|(name, _)| file.ends_with(name) || name.ends_with(file));
        let (_, text) = known.with_context(|| format!("no sample `{file}`"))?;
        if !inject {
            return self.apply(text, Some(namespace), "the namespace's label makes the pods join the mesh; ").await;
        }
        let injection = control::inject::inject_manifest(text, &control::inject::Options::default())?;
        self.apply(&injection.text, Some(namespace), "kube-inject makes the pods join the mesh; ").await
    }

    /// What `kubectl apply -f` does: create what is not there, patch what is.
    async fn apply(&self, text: &str, namespace: Option<&str>, why: &str) -> Result<Told> {
        let kinds = self.mesh.with_objects(Kinds::of);
        let mut output = String::new();
        let mut warnings = Vec::new();
        for document in api::yaml::documents(text) {
            if document.is_empty() {
                continue;
            }
            let mut object = Object::new(document.value).map_err(|status| anyhow!("{}", status.message()))?;
            let kind = kinds.of_object(&object).with_context(|| format!("unknown kind {}", object.kind()))?;
            if kind.namespaced && object.namespace().is_none() {
                object.set("/metadata/namespace", namespace.unwrap_or("default"));
            }
            let collection = collection(&object, &kind.plural);
            let path = format!("{collection}/{}", object.name());
            let (found, _, _) = self.request(Method::GET, &path, &Value::Null).await?;
            let (verb, said) = if found == StatusCode::NOT_FOUND {
                ("created", self.send(Method::POST, &collection, object.fields()).await?)
            } else {
                ("configured", self.send(Method::PATCH, &path, object.fields()).await?)
            };
            warnings.extend(said);
            let group = if object.group().is_empty() { String::new() } else { format!(".{}", object.group()) };
            output.push_str(&format_line(&kind.singular, &group, object.name(), verb));
        }
        let why = match warnings.as_slice() {
            [] => format!("{why}when this returned, the kernel enforced it"),
            warnings => format!("{why}{}", warnings.join("; ")),
        };
        Ok(Told { output, why })
    }

    async fn probe(&self, namespace: &str, selector: &str, container: &str, script: &str) -> Result<Told> {
        let source = self.pod(namespace, selector).await?;
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let stdout = self.mesh.exec(&source, container, command).await?;
        let hello: String =
            stdout.lines().filter(|line| line.contains("hello")).flat_map(|line| [line, "\n"]).collect();
        let verdict = if hello.is_empty() { "connection rejected" } else { "connection succeeded" };
        let (host, port) = script::target(script).context("a probe without `nc HOST PORT`")?;
        let why = self.mesh.why(&source, host, port);
        Ok(Told { output: format!("{hello}{verdict}\n"), why })
    }

    async fn pod(&self, namespace: &str, selector: &str) -> Result<Object> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={}", selector.replace('=', "%3D"));
        let (code, list, _) = self.request(Method::GET, &path, &Value::Null).await?;
        let pod = list.pointer("/items/0").cloned();
        let pod = pod.with_context(|| format!("no pod with label {selector} in {namespace} ({code})"))?;
        Object::new(pod).map_err(|status| anyhow!("{}", status.message()))
    }

    /// A request that must succeed; returns the warnings.
    async fn send(&self, method: Method, path: &str, body: &impl serde::Serialize) -> Result<Vec<String>> {
        let (code, answer, warnings) = self.request(method, path, body).await?;
        if !code.is_success() {
            bail!("{path}: {code}: {}", answer.get("message").and_then(Value::as_str).unwrap_or_default());
        }
        Ok(warnings)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<(StatusCode, Value, Vec<String>)> {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = serde_json::to_vec(body)?;
        let body = if body == b"null" { Bytes::new() } else { Bytes::from(body) };
        let request =
            Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, media).body(body)?;
        let response = self.mesh.server().call(request).await;
        let warned = response.headers().get_all(http::header::WARNING).iter();
        let warnings = warned.filter_map(|value| value.to_str().ok()).map(warning_text).collect();
        let code = response.status();
        let body = response.into_body().bytes().await;
        let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok((code, answer, warnings))
    }
}

fn told(output: &str, why: &str) -> Told {
    Told { output: output.to_owned(), why: why.to_owned() }
}

fn format_line(singular: &str, group: &str, name: &str, verb: &str) -> String {
    format!("{singular}{group}/{name} {verb}\n")
}

/// The path of an object's collection.
fn collection(object: &Object, plural: &str) -> String {
    let root = if object.group().is_empty() { "/api".to_owned() } else { format!("/apis/{}", object.group()) };
    let scope = object.namespace().map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    format!("{root}/{}{scope}/{plural}", object.version())
}

/// The text of a `Warning: 299 - "…"` header.
fn warning_text(header: &str) -> String {
    let text = header.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(header);
    text.replace("\\\"", "\"")
}

//! Requests about objects: reading and writing them. Not here: watches (`crate::watch`), and what a write means (`crate::write`).

use std::sync::Arc;

use api::kinds::VERBS_READ;
use api::patch::{self, PatchType};
use api::table::Include;
use api::{Key, Kind, Kinds, Object, Status};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

use crate::request::Place;
use crate::route::Ask;
use crate::server::Inner;
use crate::store::Work;
use crate::write::{self, Claim, DeleteOptions, Manner, Propagation, Target, UnknownFields};
use crate::{Body, reply, review, stream};

mod decode;
mod held;
mod list;
mod scale;
mod writer;

pub(crate) use list::Selection;

/// A request about objects, with its place looked up.
pub(crate) struct Resource {
    pub(crate) kind: Arc<Kind>,
    pub(crate) place: Place,
    pub(crate) ask: Ask,
}

/// Answers a request about objects.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    kinds: &Kinds,
    place: Place,
    ask: Ask,
) -> Result<Response<Body>, Status> {
    let Some(kind) =
        kinds.by_resource(&place.group, &place.plural).filter(|kind| kind.version(&place.version).is_some())
    else {
        return Ok(reply::no_such_path());
    };
    let everywhere =
        place.name.is_none() && matches!(*ask.request.method(), Method::GET | Method::HEAD | Method::DELETE);
    let fits = if kind.namespaced { place.namespace.is_some() || everywhere } else { place.namespace.is_none() };
    let part = place.subresource.as_deref();
    if !fits || part.is_some_and(|part| kind.subresource(&place.version, part).is_none()) {
        return Ok(reply::no_such_path());
    }
    let resource = Resource { kind: Arc::clone(kind), place, ask };
    resource.answer(inner).await
}

impl Resource {
    async fn answer(self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let method = self.ask.request.method().clone();
        let part = self.place.subresource.clone();
        match (method, self.place.name.is_some(), part.as_deref()) {
            (Method::GET | Method::HEAD, false, None) if self.kind.stored() => list::list(inner, &self),
            (Method::GET | Method::HEAD, true, None | Some("status")) => list::get(inner, &self),
            (Method::POST | Method::PUT | Method::PATCH | Method::DELETE, _, None) if self.kind.verbs == VERBS_READ => {
                Err(self.not_run())
            }
            (Method::POST, false, None) if self.kind.stored() => self.create(inner).await,
            (Method::GET | Method::HEAD, true, Some("scale")) => {
                let scale = scale::of(&*list::stored(inner, &self.key())?)?;
                Ok(reply::json(StatusCode::OK, scale.value()))
            }
            (Method::PUT | Method::PATCH, true, Some("scale")) => self.scale(inner).await,
            (Method::GET, true, Some("log")) => {
                stream::log(inner, list::stored(inner, &self.key())?, &self.ask.query).await
            }
            (Method::GET | Method::POST, true, Some("portforward")) => {
                stream::forward(inner, list::stored(inner, &self.key())?, self.ask)
            }
            (Method::GET | Method::POST, true, Some(part @ ("exec" | "attach"))) => {
                let pod = list::stored(inner, &self.key())?;
                stream::exec(inner, pod, self.ask, part == "attach").await
            }
            (_, true, Some("ephemeralcontainers")) => Err(Status::forbidden(
                &self.key(),
                "containers are not added to running pods here; look into one with `kubectl exec`, or change a copy of the pod: `kubectl debug POD --copy-to=NAME`",
            )),
            (Method::POST, true, Some("token")) => Err(Status::forbidden(
                &self.key(),
                "tokens of service accounts are not issued here: pods cannot reach the API server, and their identity is attested by the kernel without one",
            )),
            (Method::POST, false, None) => review::answer(&self.kind.plural, Object::new(self.body()?)?),
            (Method::PUT, true, None | Some("status" | "finalize")) => self.update(inner).await,
            (Method::PATCH, true, None | Some("status")) => self.patch(inner).await,
            (Method::DELETE, true, None) => self.delete(inner).await,
            (Method::DELETE, false, None) if self.kind.stored() => self.delete_selected(inner).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// What is answered to a write of a kind that is never there.
    fn not_run(&self) -> Status {
        let resource = self.kind.resource();
        if self.kind.view_of.is_some() {
            let message = format!("{resource} are shown only; make and delete them as {}", self.kind.plural);
            return Status::failure(405, "MethodNotAllowed", message);
        }
        Status::failure(
            405,
            "MethodNotAllowed",
            format!(
                "{resource} are not run by this mesh; what it runs is listed by `kubectl api-resources --verbs=create`"
            ),
        )
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.ask.request.headers()
    }

    /// The key that the path names; the name is empty if it names none.
    pub(crate) fn key(&self) -> Key {
        self.kind.key(self.place.namespace.as_deref(), self.place.name.as_deref().unwrap_or_default())
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            kind: Arc::clone(&self.kind),
            version: self.place.version.clone(),
            key: self.key(),
            subresource: self.place.subresource.clone(),
        }
    }

    /// What each row of a table carries.
    pub(crate) fn include(&self) -> Include {
        Include::from_query(self.ask.query.get("includeObject").unwrap_or_default())
    }

    fn manner(&self, inner: &Inner) -> Result<Manner, Status> {
        let unknown_fields = match self.ask.query.get("fieldValidation") {
            None | Some("Warn") => UnknownFields::Warn,
            Some("Strict") => UnknownFields::Refuse,
            Some("Ignore") => UnknownFields::Drop,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: unsupported value `{other}`; use Strict, Warn or Ignore"
                )));
            }
        };
        let dry_run = match self.ask.query.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(Status::bad_request(format!("dryRun: unsupported value `{other}`; the only one is All")));
            }
        };
        let claim = Claim::By { name: writer::name(self)?, part: self.place.subresource.clone().unwrap_or_default() };
        Ok(inner.manner(unknown_fields, dry_run, claim))
    }

    fn body(&self) -> Result<Value, Status> {
        decode::body(self.headers(), self.ask.request.body())
    }

    async fn create(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (manner, target, object) = (self.manner(inner)?, self.target(), Object::new(self.body()?)?);
        let work: Work = Box::new(move |stage| write::create(stage, &manner, &target, object));
        self.write(inner, work).await
    }

    async fn update(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (manner, target, object) = (self.manner(inner)?, self.target(), Object::new(self.body()?)?);
        let work: Work = Box::new(move |stage| write::update(stage, &manner, &target, object));
        self.write(inner, work).await
    }

    async fn patch(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (manner, target, (patch_type, patch)) = (self.manner(inner)?, self.target(), self.patch_body()?);
        let force = writer::force(self, patch_type)?;
        let work: Work = if patch_type == PatchType::Apply {
            let config = Object::new(patch)?;
            Box::new(move |stage| write::apply(stage, &manner, &target, config, force))
        } else {
            Box::new(move |stage| write::patch(stage, &manner, &target, |old| patch::apply(patch_type, old, &patch)))
        };
        self.write(inner, work).await
    }

    async fn scale(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (manner, target) = (self.manner(inner)?, Target { subresource: None, ..self.target() });
        let work: Work = if self.ask.request.method() == Method::PUT {
            let scale = Object::new(self.body()?)?;
            Box::new(move |stage| write::patch(stage, &manner, &target, |old| scale::applied(old, &scale)))
        } else {
            let (patch_type, patch) = self.patch_body()?;
            Box::new(move |stage| write::patch(stage, &manner, &target, |old| scale::patched(patch_type, old, &patch)))
        };
        let written = inner.store.submit(work).await?;
        let mut response = reply::json(StatusCode::OK, scale::of(&written.object)?.value());
        held::hold(inner, &mut response, &written).await;
        Ok(response)
    }

    fn patch_body(&self) -> Result<(PatchType, Value), Status> {
        let media_type = self.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let patch_type = PatchType::of(media_type, &self.kind)?;
        Ok((patch_type, decode::patch(patch_type, self.ask.request.body())?))
    }

    async fn delete(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (mut manner, target) = (self.manner(inner)?, self.target());
        let options = self.delete_options(&mut manner)?;
        let work: Work = Box::new(move |stage| write::delete(stage, &manner, &target, &options));
        let written = inner.store.submit(work).await?;
        // What goes slowly is shown as it is now; of what is gone only the fact is told.
        let shows = self.kind.builtin
            && matches!(self.kind.plural.as_str(), "pods" | "namespaces")
            && self.kind.group.is_empty();
        let value = if written.removed && !shows {
            Status::deleted(&self.key(), written.object.uid()).to_value()
        } else {
            write::shown(&self.target(), &written.object).value().clone()
        };
        let mut response = reply::json(StatusCode::OK, &value);
        held::hold(inner, &mut response, &written).await;
        Ok(response)
    }

    async fn delete_selected(&self, inner: &Arc<Inner>) -> Result<Response<Body>, Status> {
        let (mut manner, target, selection) = (self.manner(inner)?, self.target(), Selection::of(self)?);
        let options = self.delete_options(&mut manner)?;
        let work: Work = Box::new(move |stage| write::delete_selected(stage, &manner, &target, &options, &selection));
        let written = inner.store.submit(work).await?;
        let mut response = reply::json(StatusCode::OK, written.object.value());
        held::hold(inner, &mut response, &written).await;
        Ok(response)
    }

    /// The options stand in the query, in the body, or in both.
    fn delete_options(&self, manner: &mut Manner) -> Result<DeleteOptions, Status> {
        let body = if self.ask.request.body().is_empty() { Value::Null } else { self.body()? };
        let query = &self.ask.query;
        let propagation =
            body.get("propagationPolicy").and_then(Value::as_str).or_else(|| query.get("propagationPolicy"));
        let orphans =
            body.get("orphanDependents").and_then(Value::as_bool).unwrap_or_else(|| query.is_on("orphanDependents"));
        let propagation = match propagation {
            None if orphans => Propagation::Orphan,
            None | Some("Background") => Propagation::Background,
            Some("Foreground") => Propagation::Foreground,
            Some("Orphan") => Propagation::Orphan,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "propagationPolicy: unsupported value `{other}`; use Background, Foreground or Orphan"
                )));
            }
        };
        let asked = query.get("gracePeriodSeconds").and_then(|text| text.parse().ok());
        let grace_seconds = body.get("gracePeriodSeconds").and_then(Value::as_i64).or(asked);
        if grace_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(Status::bad_request("gracePeriodSeconds must not be negative"));
        }
        manner.dry_run |= body.get("dryRun").and_then(Value::as_array).is_some_and(|stages| !stages.is_empty());
        let precondition = |name| body.pointer(&format!("/preconditions/{name}")).and_then(Value::as_str);
        let revision = precondition("resourceVersion").map(|text| text.parse().unwrap_or(0));
        Ok(DeleteOptions { grace_seconds, propagation, uid: precondition("uid").map(str::to_owned), revision })
    }

    /// Makes the write and answers with the object, once the write is settled.
    async fn write(&self, inner: &Arc<Inner>, work: Work) -> Result<Response<Body>, Status> {
        let written = inner.store.submit(work).await?;
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let object = write::shown(&self.target(), &written.object);
        let mut response = list::one(self, code, &object);
        held::hold(inner, &mut response, &written).await;
        Ok(response)
    }
}

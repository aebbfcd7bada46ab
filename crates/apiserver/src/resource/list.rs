//! Reading objects: one, or a selection page by page.

use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use api::{Key, Kind, Object, Objects, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Resource;
use crate::request::Form;
use crate::server::Inner;
use crate::{Body, reply, request};

/// Which objects of a kind are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    kind: Arc<Kind>,
    pub(crate) namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn of(resource: &Resource) -> Result<Self, Status> {
        let query = &resource.ask.query;
        Ok(Self {
            kind: Arc::clone(&resource.kind),
            namespace: resource.place.namespace.clone(),
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), &resource.kind)?,
        })
    }

    /// Whether an object of the kind is one of those.
    pub(crate) fn takes(&self, object: &Object) -> bool {
        (self.namespace.is_none() || self.namespace.as_deref() == object.namespace())
            && self.labels.matches(object)
            && self.fields.matches(object)
    }

    /// Those that are there, by namespace and name.
    pub(crate) fn of_objects(&self, objects: &Objects) -> Vec<Arc<Object>> {
        let (group, plural) = (self.kind.stored_group(), &self.kind.plural);
        match &self.namespace {
            Some(namespace) => {
                objects.in_namespace(group, plural, namespace).filter(|object| self.takes(object)).cloned().collect()
            }
            None => objects.list(group, plural).filter(|object| self.takes(object)).cloned().collect(),
        }
    }
}

/// One stored object.
pub(super) fn stored(inner: &Inner, key: &Key) -> Result<Arc<Object>, Status> {
    inner.store.state().objects.get(key).cloned().ok_or_else(|| Status::not_found(key))
}

/// Answers with one stored object.
pub(super) fn get(inner: &Inner, resource: &Resource) -> Result<Response<Body>, Status> {
    let key = resource.key();
    let object = stored(inner, &key)?;
    Ok(one(resource, StatusCode::OK, &crate::write::shown(&resource.target(), &object)))
}

/// Answers with one object in the form that the client wants.
pub(super) fn one(resource: &Resource, code: StatusCode, object: &Object) -> Response<Body> {
    match request::form(resource.headers()) {
        Form::Metadata => reply::json(code, &crate::render::metadata(object)),
        Form::Table => {
            let table = crate::render::row(&resource.kind, &resource.place.version, object, resource.include(), true);
            reply::json(code, &table)
        }
        Form::Plain | Form::None => reply::json(code, object.value()),
    }
}

/// Where a page ended: the revision of the first page, and the last object of this one.
struct Position {
    revision: u64,
    namespace: String,
    name: String,
}

impl Position {
    fn parse(token: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("continue key is not valid: start the list anew without it");
        let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let (revision, namespace, name) = serde_json::from_slice(&text).map_err(|_| bad())?;
        Ok(Self { revision, namespace, name })
    }

    fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.revision, self.namespace, self.name]).to_string())
    }

    fn is_before(&self, object: &Object) -> bool {
        (self.namespace.as_str(), self.name.as_str()) < (object.namespace().unwrap_or_default(), object.name())
    }
}

/// Answers with the selected objects.
pub(super) fn list(inner: &Arc<Inner>, resource: &Resource) -> Result<Response<Body>, Status> {
    let query = &resource.ask.query;
    if query.is_on("watch") {
        return crate::watch::watch(inner, resource);
    }
    let selection = Selection::of(resource)?;
    let (mut objects, current) = {
        let state = inner.store.state();
        (selection.of_objects(&state.objects), state.revision)
    };
    let mut revision = current;
    if let Some(token) = query.get("continue") {
        // A page after the first is read from what is now; a watch from the first page's revision then tells all that changed meanwhile.
        let position = Position::parse(token)?;
        objects.retain(|object| position.is_before(object));
        revision = position.revision;
    } else if let Some(asked) = query.number("resourceVersion") {
        if asked > current {
            return Err(Status::revision_too_large(asked, current));
        }
        if query.get("resourceVersionMatch") == Some("Exact") && asked != current {
            return Err(Status::expired(asked, current));
        }
    }
    let limit = query
        .number("limit")
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let left = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    if let Some(last) = objects.last().filter(|_| left > 0)
        && let Some(fields) = metadata.as_object_mut()
    {
        let position = Position {
            revision,
            namespace: last.namespace().unwrap_or_default().to_owned(),
            name: last.name().to_owned(),
        };
        fields.insert("continue".to_owned(), Value::from(position.token()));
        fields.insert("remainingItemCount".to_owned(), Value::from(left));
    }
    Ok(render(resource, &objects, &metadata))
}

fn render(resource: &Resource, objects: &[Arc<Object>], metadata: &Value) -> Response<Body> {
    let target = resource.target();
    let shown: Vec<Arc<Object>> = objects.iter().map(|object| crate::write::shown(&target, object)).collect();
    let plain: Vec<&Object> = shown.iter().map(AsRef::as_ref).collect();
    let (api_version, kind) = (target.kind.api_version(&target.version), target.kind.list_kind.as_str());
    match request::form(resource.headers()) {
        Form::Table => {
            let table = crate::render::rows(&target.kind, &target.version, &plain, resource.include(), metadata);
            reply::json(StatusCode::OK, &table)
        }
        Form::Metadata => {
            let items: Vec<Value> = plain.iter().map(|object| crate::render::metadata(object)).collect();
            reply::json(
                StatusCode::OK,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items}),
            )
        }
        Form::Plain | Form::None => {
            #[derive(serde::Serialize)]
            #[serde(rename_all = "camelCase")]
            struct List<'a> {
                kind: &'a str,
                api_version: &'a str,
                metadata: &'a Value,
                items: Vec<&'a Value>,
            }
            let items = plain.iter().map(|object| object.value()).collect();
            reply::json(StatusCode::OK, &List { kind, api_version: &api_version, metadata, items })
        }
    }
}

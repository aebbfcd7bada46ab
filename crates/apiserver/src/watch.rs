//! Watches: what happened since a revision, then what happens, line by line.
//!
//! A watch has no queue: it remembers how far it has told and reads on in the store's history whenever the client is ready. One that
//! falls behind the history is told so (410) and ends; nobody else waits for it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use api::table::Include;
use api::{Change, Event, Object, Status};
use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use crate::request::{self, Form};
use crate::resource::{Resource, Selection};
use crate::server::Inner;
use crate::store::moved_past;
use crate::write::{Target, shown};
use crate::{Body, render, reply};

/// Time between bookmarks, as real servers have it.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// A watch without `timeoutSeconds` ends after this time, and its client starts another.
const WATCH_TIME_DEFAULT: Duration = Duration::from_mins(30);
/// A longer `timeoutSeconds` is cut to this, which keeps the arithmetic of time safe.
const WATCH_SECONDS_MAX: u64 = 24 * 60 * 60;
/// The annotation of the bookmark after the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    inner: Arc<Inner>,
    target: Target,
    form: Form,
    include: Include,
    selection: Selection,
    revisions: channel::Receiver<u64>,
    /// Told up to here.
    revision: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    headings_sent: bool,
    first: Option<Bytes>,
    over: bool,
}

/// Answers with a stream of events.
pub(crate) fn watch(inner: &Arc<Inner>, resource: &Resource) -> Result<Response<Body>, Status> {
    let query = &resource.ask.query;
    let selection = Selection::of(resource)?;
    let asked = match query.get("resourceVersion") {
        None | Some("0") => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| Status::bad_request(format!("invalid resource version `{text}`: it must be a number")))?,
        ),
    };
    let initial = match query.get("sendInitialEvents") {
        None => asked.is_none(),
        Some(_) if query.get("resourceVersionMatch") != Some("NotOlderThan") => {
            return Err(Status::bad_request(
                "sendInitialEvents is only allowed with resourceVersionMatch=NotOlderThan",
            ));
        }
        Some(_) => query.is_on("sendInitialEvents"),
    };
    let time = query.number("timeoutSeconds").filter(|seconds| *seconds > 0);
    let time = time.map_or(WATCH_TIME_DEFAULT, |seconds| Duration::from_secs(seconds.min(WATCH_SECONDS_MAX)));
    let now = Instant::now();
    let mut watch = Watch {
        inner: Arc::clone(inner),
        target: resource.target(),
        form: request::form(resource.headers()),
        include: resource.include(),
        selection,
        revisions: inner.store.revisions(),
        revision: asked.unwrap_or(0),
        bookmarks: query.is_on("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_EVERY,
        ends: now + time,
        headings_sent: false,
        first: None,
        over: false,
    };
    if initial {
        watch.begin_with_objects(query.is_on("sendInitialEvents") && watch.bookmarks);
    } else if asked.is_none() {
        watch.revision = inner.store.state().revision;
    }
    let lines = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|lines| (lines, watch)) });
    let mut response = reply::typed(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = Body::stream(lines);
    Ok(response)
}

impl Watch {
    fn begin_with_objects(&mut self, end_mark: bool) {
        let (objects, revision) = {
            let state = self.inner.store.state();
            (self.selection.of_objects(&state.objects), state.revision)
        };
        self.revision = revision;
        let mut lines = String::new();
        for object in &objects {
            self.line(&mut lines, "ADDED", object);
        }
        if end_mark {
            lines.push_str(&self.bookmark(true));
        }
        self.first = Some(Bytes::from(lines)).filter(|lines| !lines.is_empty());
    }

    /// The next lines; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.over {
            let lines = match self.inner.store.events_after(self.revision) {
                Ok(events) => self.lines(&events),
                Err(status) => {
                    self.over = true;
                    event_line("ERROR", &status.to_value())
                }
            };
            if !lines.is_empty() {
                return Some(Bytes::from(lines));
            }
            tokio::select! {
                moved = moved_past(&mut self.revisions, self.revision) => self.over = !moved,
                () = sleep_until(self.ends) => self.over = true,
                () = sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    return Some(Bytes::from(self.bookmark(false)));
                }
            }
        }
        None
    }

    fn lines(&mut self, events: &[Event]) -> String {
        let mut lines = String::new();
        for event in events {
            self.revision = event.revision;
            if !event.key.is(self.target.kind.stored_group(), &self.target.kind.plural) {
                continue;
            }
            let takes = |object: Option<&Arc<Object>>| object.is_some_and(|object| self.selection.takes(object));
            match (&event.change, takes(event.change.before()), takes(event.change.now())) {
                (Change::Put { new, .. }, false, true) => self.line(&mut lines, "ADDED", new),
                (Change::Put { new, .. }, true, true) => self.line(&mut lines, "MODIFIED", new),
                (Change::Put { old: Some(old), .. } | Change::Deleted { old }, true, false) => {
                    // The last state that was selected, under the revision at which it left.
                    let mut last = old.as_ref().clone();
                    last.set("/metadata/resourceVersion", event.revision.to_string());
                    self.line(&mut lines, "DELETED", &Arc::new(last));
                }
                _ => {}
            }
        }
        lines
    }

    fn line(&mut self, lines: &mut String, what: &str, object: &Arc<Object>) {
        let object = shown(&self.target, object);
        let line = match self.form {
            Form::Table => {
                let headings = !std::mem::replace(&mut self.headings_sent, true);
                event_line(what, &render::row(&self.target.kind, &self.target.version, &object, self.include, headings))
            }
            Form::Metadata => event_line(what, &render::metadata(&object)),
            Form::Plain | Form::None => event_line(what, object.value()),
        };
        lines.push_str(&line);
    }

    fn bookmark(&self, initial_events_end: bool) -> String {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if initial_events_end && let Some(fields) = metadata.as_object_mut() {
            fields.insert("annotations".to_owned(), json!({INITIAL_EVENTS_END: "true"}));
        }
        let (kind, api_version) = (&self.target.kind.kind, self.target.kind.api_version(&self.target.version));
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        match self.form {
            Form::Table => event_line(
                "BOOKMARK",
                &json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": null, "rows": [{"cells": [], "object": object}]}),
            ),
            _ => event_line("BOOKMARK", &object),
        }
    }
}

fn event_line(what: &str, object: &Value) -> String {
    let mut line = String::new();
    if writeln!(line, "{{\"type\":\"{what}\",\"object\":{object}}}").is_err() {
        // INVARIANT: writing to a string does not fail.
        line.clear();
    }
    line
}

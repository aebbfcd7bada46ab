//! A corpus file's text to cases. Fields that the format does not know are left alone; what the engine needs must be there.

use std::net::IpAddr;

use api::yaml::{Children, Document, Node, Span, documents};
use policy::finding::FieldPath;
use policy::{Answer, Connection, Peer, Profile, ProviderKind, Settings, Workload, WorkloadId};
use serde_json::Value;

use super::{Asked, Case, Corpus, Fault, Matter, Place, Problem};

/// The version of the format that is read.
const FORMAT: u64 = 1;

/// Reads a corpus file. A case that cannot be read is a problem; the others are there.
pub fn read(text: &str) -> Corpus {
    let mut corpus = Corpus::default();
    for document in texts(text) {
        if let Some(problem) = document.fatal() {
            let place = Place { line: problem.span.line, column: problem.span.column };
            corpus.problems.push(Problem { place, message: problem.message.clone() });
        } else if !document.is_empty() {
            file(&document, &mut corpus);
        }
    }
    if corpus.cases.is_empty() && corpus.problems.is_empty() {
        let message = "there are no cases in it; a corpus file is `{format: 1, topic: NAME, cases: [..]}`".to_owned();
        corpus.problems.push(Problem { place: Place { line: 1, column: 1 }, message });
    }
    corpus
}

/// The documents of a text. `y` and `n` are text in them, as keys too, and so are `09000` and `1e3`: kubectl's reader takes them
/// for booleans and numbers, as few others do, and corpora are written by others, which leave them unquoted.
fn texts(text: &str) -> Vec<Document> {
    let mut documents = documents(text);
    for document in &mut documents {
        if let Some(root) = &mut document.root {
            as_written(&mut document.value, root, text);
        }
    }
    documents
}

fn as_written(value: &mut Value, node: &mut Node, text: &str) {
    match (value, &mut node.children) {
        (value @ Value::Bool(_), Children::None) => {
            if let Some(letter) = letter(&node.span, text) {
                *value = Value::from(letter);
            }
        }
        (value @ Value::Number(_), Children::None) => {
            let written = text.get(node.span.bytes.clone()).unwrap_or_default().trim_end();
            if !is_number_to_others(written) {
                *value = Value::from(written);
            }
        }
        (Value::Array(values), Children::Items(items)) => {
            values.iter_mut().zip(items).for_each(|(value, item)| as_written(value, item, text));
        }
        (Value::Object(values), Children::Fields(fields)) => {
            for field in fields {
                if let Some(letter) = letter(&field.key_span, text)
                    && let Some(value) = values.shift_remove(&field.key)
                {
                    letter.clone_into(&mut field.key);
                    values.insert(field.key.clone(), value);
                }
                if let Some(value) = values.get_mut(&field.key) {
                    as_written(value, &mut field.node, text);
                }
            }
        }
        _ => {}
    }
}

/// The letter that stands there without quotes.
fn letter<'a>(span: &Span, text: &'a str) -> Option<&'a str> {
    let written = text.get(span.bytes.clone())?.trim_end();
    matches!(written, "y" | "Y" | "n" | "N").then_some(written)
}

/// Is a number one in YAML 1.1 as well, where an exponent needs a dot and a sign, and what begins with 0 is octal. What is not
/// written as a number is an alias of one.
fn is_number_to_others(written: &str) -> bool {
    let unsigned = written.strip_prefix(['+', '-']).unwrap_or(written).to_ascii_lowercase();
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') || unsigned.starts_with("0x") {
        return true;
    }
    if let Some((digits, exponent)) = unsigned.split_once('e') {
        return digits.contains('.') && exponent.starts_with(['+', '-']);
    }
    let is_octal = unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'7' | b'_'));
    !unsigned.starts_with('0') || unsigned.contains('.') || unsigned.starts_with("0b") || is_octal
}

fn file(document: &Document, corpus: &mut Corpus) {
    let root = FieldPath::default();
    let known = match member(&document.value, "format") {
        Some(format) if format.as_u64() != Some(FORMAT) => {
            Err(Fault::new(&root.member("format"), format!("format {format} is not known; {FORMAT} is")))
        }
        _ => member(&document.value, "cases").and_then(Value::as_array).ok_or_else(|| {
            Fault::new(&root, "there is no list `cases`; a corpus file is `{format: 1, topic: NAME, cases: [..]}`")
        }),
    };
    let cases = match known {
        Ok(cases) => cases,
        Err(fault) => return corpus.problems.push(problem(document, fault)),
    };
    for (index, value) in cases.iter().enumerate() {
        let at = root.member("cases").index(index);
        match case(document, value, &at) {
            Ok(case) => corpus.cases.push(case),
            Err(mut fault) => {
                if let Some(id) = member(value, "id").and_then(plain) {
                    fault.message = format!("case {id}: {}", fault.message);
                }
                corpus.problems.push(problem(document, fault));
            }
        }
    }
}

fn problem(document: &Document, fault: Fault) -> Problem {
    Problem { place: place(document, &fault.at), message: fault.message }
}

/// Where a field stands, or what would hold it.
fn place(document: &Document, at: &FieldPath) -> Place {
    let found = document.locate(&at.to_string());
    let span = found.map(|(key, node)| key.unwrap_or(&node.span));
    span.map_or(Place { line: 1, column: 1 }, |span| Place { line: span.line, column: span.column })
}

fn case(document: &Document, value: &Value, at: &FieldPath) -> Result<Case, Fault> {
    if !value.is_object() {
        return Err(Fault::new(at, "a case is a mapping with an `id`"));
    }
    let mesh = member(value, "mesh").unwrap_or(&Value::Null);
    let (settings, answers) = settings(mesh, &at.member("mesh"))?;
    let matter = match member(value, "kind").map(Value::as_str) {
        None | Some(Some("evaluation")) => Matter::Evaluation {
            policies: stream(value, "policies", at)?,
            workload: workload(value, at)?,
            connections: connections(document, value, at, &answers)?,
        },
        Some(Some("validation")) => Matter::Validation { policies: stream(value, "policies", at)? },
        Some(Some("transition")) => Matter::Transition {
            before: stream(value, "before", at)?,
            after: stream(value, "after", at)?,
            workload: workload(value, at)?,
            connections: connections(document, value, at, &answers)?,
        },
        Some(_) => {
            return Err(Fault::new(&at.member("kind"), "a `kind` is `evaluation`, `validation` or `transition`"));
        }
    };
    Ok(Case {
        id: text(value, "id", at)?,
        title: member(value, "title").and_then(plain).unwrap_or_default(),
        place: place(document, at),
        profiles: profiles(value, at)?,
        settings,
        bypass: flag(value, "bypassValidation", at)?.unwrap_or(false),
        matter,
        expect: member(value, "expect").cloned().unwrap_or_default(),
    })
}

/// One word or a list of them; the sidecar profile if there is none.
fn profiles(value: &Value, at: &FieldPath) -> Result<Vec<Profile>, Fault> {
    let words = match member(value, "profile") {
        None => return Ok(vec![Profile::Sidecar]),
        Some(Value::Array(words)) => words.clone(),
        Some(word) => vec![word.clone()],
    };
    let mut profiles = Vec::new();
    for word in &words {
        let known = [Profile::Sidecar, Profile::Ambient].into_iter().find(|one| word.as_str() == Some(one.word()));
        let profile = known.ok_or_else(|| {
            Fault::new(&at.member("profile"), format!("{word} is not a profile; `sidecar` and `ambient` are"))
        })?;
        if !profiles.contains(&profile) {
            profiles.push(profile);
        }
    }
    if profiles.is_empty() {
        return Err(Fault::new(&at.member("profile"), "the list of profiles is empty; leave it out for `sidecar`"));
    }
    Ok(profiles)
}

/// The settings of the mesh, and what each authorizer answers.
fn settings(mesh: &Value, at: &FieldPath) -> Result<(Settings, Vec<(String, Answer)>), Fault> {
    let mut settings = Settings::default();
    if let Some(root) = member(mesh, "rootNamespace") {
        settings.root_namespace = plain(root).unwrap_or_default();
    }
    if let Some(domain) = member(mesh, "trustDomain") {
        settings.trust_domain = plain(domain).unwrap_or_default();
    }
    let aliases = member(mesh, "trustDomainAliases").and_then(Value::as_array);
    settings.trust_domain_aliases = aliases.into_iter().flatten().filter_map(plain).collect();
    settings.multiple_custom_providers = flag(mesh, "multipleCustomProviders", at)?.unwrap_or(false);
    settings.ambient_dry_run = flag(mesh, "ambientDryRun", at)?.unwrap_or(true);
    let mut answers = Vec::new();
    for (name, provider) in member(mesh, "providers").and_then(Value::as_object).into_iter().flatten() {
        let at = at.member("providers").member(name);
        let kind = match member(provider, "type").map(Value::as_str) {
            None | Some(Some("grpc")) => ProviderKind::Grpc,
            Some(Some("http")) => ProviderKind::Http,
            Some(_) => return Err(Fault::new(&at.member("type"), "the `type` of a provider is `grpc` or `http`")),
        };
        let answer = match member(provider, "decision").map(Value::as_str) {
            None | Some(Some("allow")) => Answer::Allow,
            Some(Some("deny")) => Answer::Deny,
            Some(_) => {
                return Err(Fault::new(&at.member("decision"), "the `decision` of a provider is `allow` or `deny`"));
            }
        };
        settings.providers.insert(name.clone(), kind);
        answers.push((name.clone(), answer));
    }
    Ok((settings, answers))
}

/// The objects of a stream as a user would apply it, lists taken apart.
fn stream(value: &Value, name: &str, at: &FieldPath) -> Result<Vec<Value>, Fault> {
    let at = at.member(name);
    let objects = match member(value, name) {
        None => Vec::new(),
        Some(Value::String(text)) => {
            let documents = texts(text);
            if let Some(problem) = documents.iter().find_map(Document::fatal) {
                let (line, column) = (problem.span.line, problem.span.column);
                let message = format!("line {line}, column {column} of this text: {}", problem.message);
                return Err(Fault::new(&at, message));
            }
            documents.into_iter().filter(|one| !one.is_empty()).map(|one| one.value).collect()
        }
        Some(_) => return Err(Fault::new(&at, format!("`{name}` is text that holds a YAML stream: `{name}: |`"))),
    };
    let is_list = |object: &Value| member(object, "kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    let flat = objects.into_iter().flat_map(|object| match member(&object, "items") {
        Some(Value::Array(items)) if is_list(&object) => items.clone(),
        _ => vec![object],
    });
    Ok(flat.collect())
}

fn workload(value: &Value, at: &FieldPath) -> Result<Box<Workload>, Fault> {
    let at = at.member("workload");
    let value = member(value, "workload").unwrap_or(&Value::Null);
    let labels = member(value, "labels").and_then(Value::as_object).into_iter().flatten();
    let addresses = member(value, "ips").and_then(Value::as_array).into_iter().flatten().enumerate();
    Ok(Box::new(Workload {
        id: WorkloadId::new(text(value, "namespace", &at)?, text(value, "name", &at)?),
        labels: labels.filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect(),
        service_account: "default".to_owned(),
        addresses: addresses
            .map(|(index, ip)| address(ip, &at.member("ips").index(index)))
            .collect::<Result<Vec<_>, _>>()?,
        in_mesh: true,
    }))
}

fn connections(
    document: &Document,
    case: &Value,
    at: &FieldPath,
    answers: &[(String, Answer)],
) -> Result<Vec<Asked>, Fault> {
    let at = at.member("connections");
    let list = member(case, "connections").and_then(Value::as_array);
    let list = list.ok_or_else(|| Fault::new(&at, "the case needs a list of `connections`"))?;
    let one = |(index, value): (usize, &Value)| {
        let at = at.index(index);
        let mut connection = connection(value, &at)?;
        connection.answers = answers.to_vec();
        let expect = member(value, "expect").cloned().unwrap_or_default();
        Ok(Asked { place: place(document, &at), connection, expect })
    };
    list.iter().enumerate().map(one).collect()
}

fn connection(value: &Value, at: &FieldPath) -> Result<Connection, Fault> {
    let source = member(value, "source").unwrap_or(&Value::Null);
    let destination = member(value, "destination").unwrap_or(&Value::Null);
    let source_at = at.member("source");
    let destination_at = at.member("destination");
    let peer = match member(source, "identity") {
        None => Peer::Anonymous,
        Some(Value::String(name)) => Peer::verified(name),
        Some(_) => {
            return Err(Fault::new(&source_at.member("identity"), "an identity is the URI of a certificate, or null"));
        }
    };
    let port = text(destination, "port", &destination_at)?;
    let port = port.parse().map_err(|_| {
        Fault::new(&destination_at.member("port"), format!("`{port}` is not a port; a number from 0 to 65535 is"))
    })?;
    let ip = |value: &Value, at: &FieldPath| address(member(value, "ip").unwrap_or(&Value::Null), &at.member("ip"));
    let mut connection = Connection::new(ip(source, &source_at)?, peer, ip(destination, &destination_at)?, port);
    connection.sni = member(value, "sni").and_then(plain);
    Ok(connection)
}

fn address(value: &Value, at: &FieldPath) -> Result<IpAddr, Fault> {
    let read = value.as_str().and_then(|text| text.parse().ok());
    read.ok_or_else(|| Fault::new(at, format!("{value} is not an address; `10.0.0.1` and `fd00::1` are")))
}

/// A field that is there and not null.
pub(super) fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// A scalar as text, whether quoted or not.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text(value: &Value, name: &str, at: &FieldPath) -> Result<String, Fault> {
    let found = member(value, name).and_then(plain);
    found.ok_or_else(|| Fault::new(&at.member(name), format!("`{name}` is missing; it is text")))
}

fn flag(value: &Value, name: &str, at: &FieldPath) -> Result<Option<bool>, Fault> {
    match member(value, name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Fault::new(&at.member(name), format!("`{name}` is `true` or `false`"))),
    }
}

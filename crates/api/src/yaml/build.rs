//! From parser events to documents.

use std::collections::HashMap;
use std::ops::Range;

use base64::Engine as _;
use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, StructureStyle, Tag};
use serde_json::{Map, Value};

use super::scalar::{self, Plain};
use super::{
    ALIASED_BYTES_MAX, ALIASED_NODES_MAX, BYTES_MAX, Children, Comment, DEPTH_MAX, Document, Field, Node, Problem, Span,
};

/// Reads every document of a stream. One that cannot be read has a fatal problem; reading goes on at the next marker.
pub fn documents(text: &str) -> Vec<Document> {
    if text.len() > BYTES_MAX {
        let message = format!("the input has {} bytes, more than {BYTES_MAX}; split it", text.len());
        let span = Span { bytes: 0..text.len(), line: 1, column: 1 };
        let problem = Problem { message, span, other: None, fatal: true };
        let range = 0..text.len();
        return vec![Document { value: Value::Null, root: None, range, comments: Vec::new(), problems: vec![problem] }];
    }
    let all = 0..text.len();
    read(text, &all, 1).documents
}

/// What was read of a part of a text.
pub(super) struct Reading {
    pub(super) documents: Vec<Document>,
    /// Comments after the last document.
    pub(super) comments: Vec<Comment>,
    /// What aliases copied.
    pub(super) aliased_nodes: usize,
    pub(super) aliased_bytes: usize,
    /// Where the document after this part begins: byte and line. None at the end of the text, and where something is wrong.
    pub(super) next: Option<(usize, usize)>,
}

/// Reads the documents that begin in a part of a text. The part begins in a line of its own, this one, where a document does.
///
/// The parser sees the text to its end, so that a part ends as it does within the whole.
pub(super) fn read(text: &str, part: &Range<usize>, line: usize) -> Reading {
    let mut options = Options::default();
    options.block_nesting_limit = DEPTH_MAX;
    options.flow_nesting_limit = DEPTH_MAX;
    // The input is bounded above, and every comment takes a byte of it.
    options.max_buffered_comment_events = BYTES_MAX;
    let mut parser = Parser::new_from_str_with_options(text.get(part.start..).unwrap_or_default(), options);
    let mut stream = Stream { text, before: (part.start, line.saturating_sub(1)), ..Stream::default() };
    let whole = part.start == 0 && part.end == text.len();
    let mut next = None;
    loop {
        match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => {
                let span = stream.place(span.byte_range(), &span.start);
                // One without a marker can stand there too: an empty text in block style has its place behind it.
                if !whole && span.bytes.start >= part.end && matches!(event, Event::DocumentStart(true, _)) {
                    next = Some((span.bytes.start, span.line));
                    break;
                }
                stream.take(event, &span);
            }
            Some(Err(error)) => {
                let at = error.marker();
                let start = at.byte_offset().unwrap_or(0);
                let span = stream.place(Some(start..start), at);
                stream.fail(error.kind().to_string(), span);
                // What is not well formed is read as a whole.
                if !whole || !matches!(parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    stream.finish(part, next)
}

#[derive(Default)]
struct Stream<'a> {
    text: &'a str,
    /// Bytes and lines that stand before what the parser sees.
    before: (usize, usize),
    done: Vec<Document>,
    /// Where each document starts, to cut the input into ranges.
    starts: Vec<usize>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    comments: Vec<Comment>,
    problems: Vec<Problem>,
    root: Option<Built>,
    open: bool,
    broken: bool,
    aliased_nodes: usize,
    aliased_bytes: usize,
}

/// A finished node with what it costs to repeat it.
struct Built {
    value: Value,
    node: Node,
    /// Whether it is a scalar, and so may be a key.
    scalar: bool,
    cost: Cost,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

struct Anchored {
    value: Value,
    scalar: bool,
    cost: Cost,
}

struct Frame {
    span: Span,
    flow: bool,
    anchor: usize,
    cost: Cost,
    kind: FrameKind,
}

enum FrameKind {
    List {
        values: Vec<Value>,
        nodes: Vec<Node>,
    },
    Mapping {
        values: Map<String, Value>,
        fields: Vec<Field>,
        twice: Twice,
        merges: Vec<Value>,
        key: Option<(String, Span)>,
    },
}

/// Where keys of a mapping stand first, for those that stand twice.
///
/// Nearly every mapping has none, so keys are taken in when the first such one comes; each once, since a text may be all such keys.
#[derive(Default)]
struct Twice {
    first: HashMap<String, Span>,
    taken: usize,
}

impl Twice {
    fn first(&mut self, key: &str, fields: &[Field]) -> Option<Span> {
        for field in fields.iter().skip(self.taken) {
            self.first.entry(field.key.clone()).or_insert_with(|| field.key_span.clone());
        }
        self.taken = fields.len();
        self.first.get(key).cloned()
    }
}

impl Stream<'_> {
    /// A place in the whole text.
    fn place(&self, bytes: Option<Range<usize>>, start: &Marker) -> Span {
        let (before, lines) = self.before;
        let shift = |at: usize| at.saturating_add(before).min(self.text.len());
        let bytes = bytes.map_or(0..0, |bytes| shift(bytes.start)..shift(bytes.end));
        Span { bytes, line: start.line().saturating_add(lines), column: start.col().saturating_add(1) }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) {
        match event {
            Event::DocumentStart(..) => {
                self.close();
                self.open = true;
                self.starts.push(span.bytes.start);
            }
            Event::DocumentEnd | Event::StreamEnd => self.close(),
            Event::Comment(text, _) => {
                self.comments.push(Comment { text: text.trim().to_owned(), span: span.clone() });
            }
            _ if self.broken => {}
            Event::Scalar(text, style, anchor, tag) => {
                let built = self.scalar(&text, style, tag.as_deref(), span);
                self.put(built, anchor);
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::SequenceStart(style, anchor, _) => {
                let kind = FrameKind::List { values: Vec::new(), nodes: Vec::new() };
                self.push(kind, style, anchor, span);
            }
            Event::MappingStart(style, anchor, _) => {
                let kind = FrameKind::Mapping {
                    values: Map::new(),
                    fields: Vec::new(),
                    twice: Twice::default(),
                    merges: Vec::new(),
                    key: None,
                };
                self.push(kind, style, anchor, span);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.stack.pop() {
                    let anchor = frame.anchor;
                    let built = finish(frame, span.bytes.end);
                    self.put(built, anchor);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, kind: FrameKind, style: StructureStyle, anchor: usize, span: &Span) {
        let flow = style == StructureStyle::Flow;
        if self.stack.len() >= DEPTH_MAX {
            self.fail(format!("nested deeper than {DEPTH_MAX}; flatten it"), span.clone());
            return;
        }
        self.stack.push(Frame { span: span.clone(), flow, anchor, cost: Cost::default(), kind });
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Built {
        let core = tag.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
        let quoted = style != ScalarStyle::Plain;
        let value = match core.as_deref() {
            Some("str") => Value::from(text),
            Some("binary") => self.binary(text, span),
            None if tag.is_some_and(|tag| tag.original() == "!") || quoted => Value::from(text),
            _ => self.plain(text, span),
        };
        let cost = Cost { nodes: 1, bytes: text.len(), depth: 0 };
        let node = Node { span: span.clone(), flow: quoted, children: Children::None };
        Built { value, node, scalar: true, cost }
    }

    fn plain(&mut self, text: &str, span: &Span) -> Value {
        match scalar::plain(text) {
            Plain::Value(value) => value,
            Plain::NotJson => {
                let message = format!("`{text}` is no number that JSON can hold; quote it to make it text");
                self.problems.push(Problem { message, span: span.clone(), other: None, fatal: false });
                Value::Null
            }
        }
    }

    fn binary(&mut self, text: &str, span: &Span) -> Value {
        let packed: String = text.split_whitespace().collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(packed).ok();
        decoded.and_then(|bytes| String::from_utf8(bytes).ok()).map_or_else(
            || {
                let message = "this `!!binary` value is no base64 of a text; write the text itself".to_owned();
                self.problems.push(Problem { message, span: span.clone(), other: None, fatal: false });
                Value::Null
            },
            Value::from,
        )
    }

    fn alias(&mut self, anchor: usize, span: &Span) {
        let Some(anchored) = self.anchors.get(&anchor) else {
            self.fail("this alias stands inside the node it refers to; write the node out".to_owned(), span.clone());
            return;
        };
        let (value, scalar, cost) = (anchored.value.clone(), anchored.scalar, anchored.cost);
        if !self.pay(cost, span) {
            return;
        }
        if self.stack.len().saturating_add(cost.depth) > DEPTH_MAX {
            self.fail(format!("aliases nest deeper than {DEPTH_MAX}; flatten them"), span.clone());
            return;
        }
        let node = Node { span: span.clone(), flow: true, children: Children::None };
        let built = Built { value, node, scalar, cost };
        self.put(built, 0);
    }

    /// Takes the cost of one copy out of the budget; whether there was enough.
    fn pay(&mut self, cost: Cost, span: &Span) -> bool {
        self.aliased_nodes = self.aliased_nodes.saturating_add(cost.nodes);
        self.aliased_bytes = self.aliased_bytes.saturating_add(cost.bytes);
        let enough = self.aliased_nodes <= ALIASED_NODES_MAX && self.aliased_bytes <= ALIASED_BYTES_MAX;
        if !enough {
            let message = format!(
                "anchors and aliases expand to more than {ALIASED_NODES_MAX} nodes or {ALIASED_BYTES_MAX} bytes; write the nodes out"
            );
            self.fail(message, span.clone());
        }
        enough
    }

    fn put(&mut self, built: Built, anchor: usize) {
        if self.broken {
            return;
        }
        if anchor != 0 {
            // A copy is kept for the aliases, and anchors nest: their copies cost as much as those of aliases.
            if !self.pay(built.cost, &built.node.span) {
                return;
            }
            let anchored = Anchored { value: built.value.clone(), scalar: built.scalar, cost: built.cost };
            self.anchors.insert(anchor, anchored);
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(built);
            return;
        };
        frame.cost.nodes = frame.cost.nodes.saturating_add(built.cost.nodes);
        frame.cost.bytes = frame.cost.bytes.saturating_add(built.cost.bytes);
        frame.cost.depth = frame.cost.depth.max(built.cost.depth);
        match &mut frame.kind {
            FrameKind::List { values, nodes } => {
                values.push(built.value);
                nodes.push(built.node);
            }
            FrameKind::Mapping { values, fields, twice, merges, key } => match key.take() {
                None => match built.value {
                    Value::String(text) => *key = Some((text, built.node.span)),
                    other if built.scalar => *key = Some((other.to_string(), built.node.span)),
                    _ => self.fail("a key must be a scalar, not a mapping or list".to_owned(), built.node.span),
                },
                Some((text, key_span)) => {
                    let is_merge = text == "<<" && self.text.get(key_span.bytes.clone()) == Some("<<");
                    if is_merge && mergeable(&built.value) {
                        merges.push(built.value);
                        return;
                    }
                    if values.insert(text.clone(), built.value).is_some() {
                        self.problems.push(Problem {
                            message: format!("the key `{text}` stands twice; kubectl takes the last one: remove one"),
                            span: key_span.clone(),
                            other: twice.first(&text, fields),
                            fatal: false,
                        });
                    }
                    fields.push(Field { key: text, key_span, node: built.node });
                }
            },
        }
    }

    fn fail(&mut self, message: String, span: Span) {
        if !self.open {
            self.open = true;
            self.starts.push(span.bytes.start);
        }
        self.broken = true;
        self.problems.push(Problem { message, span, other: None, fatal: true });
    }

    /// Ends the open document.
    fn close(&mut self) {
        if !self.open {
            return;
        }
        let built = self.root.take().filter(|_| !self.broken);
        let (value, root) = built.map_or((Value::Null, None), |built| (built.value, Some(built.node)));
        self.done.push(Document {
            value,
            root,
            range: 0..0,
            comments: std::mem::take(&mut self.comments),
            problems: std::mem::take(&mut self.problems),
        });
        self.stack.clear();
        self.anchors.clear();
        self.open = false;
        self.broken = false;
    }

    /// Gives every document its range.
    fn finish(mut self, part: &Range<usize>, next: Option<(usize, usize)>) -> Reading {
        self.close();
        // What follows the last document is comments.
        if let Some(last) = self.done.last_mut().filter(|_| next.is_none()) {
            last.comments.append(&mut self.comments);
        }
        for (document, range) in self.done.iter_mut().zip(ranges(&self.starts, part)) {
            document.range = range;
        }
        Reading {
            documents: self.done,
            comments: self.comments,
            aliased_nodes: self.aliased_nodes,
            aliased_bytes: self.aliased_bytes,
            next,
        }
    }
}

fn ranges(starts: &[usize], part: &Range<usize>) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (index, &start) in starts.iter().enumerate() {
        // What stands before the first document, comments and directives, belongs to it.
        let from = if index == 0 { part.start } else { start };
        let to = starts.get(index.saturating_add(1)).copied().unwrap_or(part.end);
        ranges.push(from..to.max(from));
    }
    ranges
}

fn mergeable(value: &Value) -> bool {
    value.is_object() || value.as_array().is_some_and(|items| items.iter().all(Value::is_object))
}

fn finish(frame: Frame, closed: usize) -> Built {
    let Frame { mut span, flow, cost, kind, .. } = frame;
    let cost = Cost { nodes: cost.nodes.saturating_add(1), bytes: cost.bytes, depth: cost.depth.saturating_add(1) };
    let (value, children, last) = match kind {
        FrameKind::List { values, nodes } => {
            let last = nodes.last().map(|node| node.span.bytes.end);
            (Value::Array(values), Children::Items(nodes), last)
        }
        FrameKind::Mapping { mut values, fields, merges, .. } => {
            let sources = merges.into_iter().flat_map(|merge| match merge {
                Value::Array(items) => items,
                one => vec![one],
            });
            for (key, value) in sources
                .filter_map(|source| if let Value::Object(fields) = source { Some(fields) } else { None })
                .flatten()
            {
                values.entry(key).or_insert(value);
            }
            let last = fields.last().map(|field| field.node.span.bytes.end.max(field.key_span.bytes.end));
            (Value::Object(values), Children::Fields(fields), last)
        }
    };
    // The parser ends a block where the next token starts, which may be many blank lines below.
    span.bytes.end = if flow { closed } else { last.unwrap_or(closed) }.max(span.bytes.start);
    Built { value, node: Node { span, flow, children }, scalar: false, cost }
}

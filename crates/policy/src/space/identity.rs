//! All identities `spiffe://TD/ns/NS/sa/SA`, cut by what patterns ask of them. Each pattern comes apart into what it asks of the three
//! names, in as many ways as its stars can be laid over the fixed text between them; each name is cut for itself, and the identities are
//! the combinations that some pattern tells apart.

use std::collections::HashMap;

use super::Bound;
use super::bits::Bits;
use super::glob::{Glob, Language, Token};
use super::tree::{Cell, Dimension, Tree};
use crate::identity::{SCHEME, SpiffeId};
use crate::matcher::Set;

/// Classes of identities of one destination: each is compared with every rule.
const CLASSES_MAX: usize = 20_000;
/// What a pattern may come apart into: more needs dozens of stars.
const PRODUCTS_MAX: usize = 256;

/// What is asked of trust domain, namespace and service account.
type Product = [Glob; 3];

/// The classes of identities.
#[derive(Debug)]
pub(super) struct Identities {
    /// Trust domains, namespaces and service accounts.
    pub(super) names: [Language; 3],
    pub(super) classes: Vec<Identity>,
}

/// Identities that fulfil the same patterns.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) example: SpiffeId,
    /// Products of classes of the three names, disjoint.
    pub(super) boxes: Vec<Cell>,
}

impl Identities {
    /// Cut by these sets of patterns. Examples are made of the preferred names where they will do.
    pub(super) fn new(sets: &[&Set], preferred: [&str; 3]) -> Result<Self, Bound> {
        // Products that are asked for by the same sets are the same question.
        let mut askers: HashMap<Product, Vec<usize>> = HashMap::new();
        for (asker, set) in sets.iter().enumerate() {
            for product in products(set)? {
                let askers = askers.entry(product).or_default();
                if askers.last() != Some(&asker) {
                    askers.push(asker);
                }
            }
        }
        let mut questions: Vec<(Product, Vec<usize>)> = askers.into_iter().collect();
        questions.sort();
        let mut names = [0, 1, 2].map(|at| {
            let mut globs: Vec<Glob> = questions.iter().filter_map(|(product, _)| product.get(at)).cloned().collect();
            globs.sort();
            globs.dedup();
            Language::new(globs, Some('/'))
        });
        let [domains, namespaces, accounts] = &mut names;
        for (language, name) in [(domains, preferred[0]), (namespaces, preferred[1]), (accounts, preferred[2])] {
            if let Ok(language) = language {
                language.prefer(name);
            }
        }
        let [domains, namespaces, accounts] = names;
        let names = [domains?, namespaces?, accounts?];
        let dimensions: Vec<Dimension> =
            names.iter().enumerate().map(|(at, language)| dimension(language, &questions, at)).collect();
        let mut keys: HashMap<&[usize], usize> = HashMap::new();
        let keys: Vec<usize> = questions
            .iter()
            .map(|(_, askers)| {
                let next = keys.len();
                *keys.entry(askers.as_slice()).or_insert(next)
            })
            .collect();
        let tree = Tree::build(&dimensions, &keys, |mask, free| mask.without(free).is_none().then(|| mask.clone()))?;
        let (cells, more) = tree.cells(&dimensions, CLASSES_MAX, |_| true);
        if more {
            return Err(Bound::Classes);
        }
        let mut by_answers: HashMap<Bits, usize> = HashMap::new();
        let mut classes: Vec<Identity> = Vec::new();
        for (cell, answers) in cells {
            let cell: Cell = cell
                .iter()
                .zip(&dimensions)
                .zip(&names)
                .map(|((groups, dimension), language)| Bits::of(language.classes.len(), dimension.classes(groups)))
                .collect();
            let next = classes.len();
            let class = *by_answers.entry(answers).or_insert(next);
            match classes.get_mut(class) {
                Some(class) => class.boxes.push(cell),
                None => classes.extend(example(&names, &cell).map(|example| Identity { example, boxes: vec![cell] })),
            }
        }
        Ok(Self { names, classes })
    }

    /// The class of an identity.
    pub(super) fn class_of(&self, id: &SpiffeId) -> Option<usize> {
        let [domains, namespaces, accounts] = &self.names;
        let at = [
            domains.class_of(id.trust_domain())?,
            namespaces.class_of(id.namespace())?,
            accounts.class_of(id.service_account())?,
        ];
        let inside = |cell: &Cell| cell.iter().zip(at).all(|(classes, class)| classes.has(class));
        self.classes.iter().position(|class| class.boxes.iter().any(inside))
    }
}

fn dimension(language: &Language, questions: &[(Product, Vec<usize>)], at: usize) -> Dimension {
    let positions: HashMap<&Glob, usize> = language.globs.iter().zip(0..).collect();
    let asked: Vec<Option<usize>> =
        questions.iter().map(|(product, _)| product.get(at).and_then(|glob| positions.get(glob).copied())).collect();
    let vectors = language.classes.iter().map(|class| {
        let holds = |glob: &Option<usize>| glob.is_some_and(|glob| class.accepts.has(glob));
        Bits::of(asked.len(), asked.iter().enumerate().filter(|(_, glob)| holds(glob)).map(|(at, _)| at))
    });
    Dimension::new(vectors, asked.len())
}

/// An identity from a product.
pub(super) fn example(names: &[Language; 3], cell: &Cell) -> Option<SpiffeId> {
    let mut parts = names.iter().zip(cell).map(|(language, classes)| language.example(classes));
    SpiffeId::new(parts.next()??, parts.next()??, parts.next()??)
}

/// What a set asks, as an alternative of products.
fn products(set: &Set) -> Result<Vec<Product>, Bound> {
    let mut found = Vec::new();
    match set {
        Set::Principals(texts) => {
            for pieces in texts.pieces() {
                laid_over(&Glob::new(pieces).tokens(), "", &mut found)?;
            }
        }
        Set::NamespacesRaw(globs) => {
            for glob in globs {
                laid_over(&Glob::starred(glob).tokens(), SCHEME, &mut found)?;
            }
        }
        Set::Namespaces(texts) => {
            found.extend(texts.pieces().into_iter().map(|pieces| [Glob::any(), Glob::new(pieces), Glob::any()]));
        }
        Set::ServiceAccounts(accounts) => {
            let exact = |text: &str| Glob::new([text]);
            found.extend(accounts.iter().map(|(namespace, name)| [Glob::any(), exact(namespace), exact(name)]));
        }
        Set::TrustDomains(patterns) => {
            for pattern in patterns {
                if pattern.contains('*') {
                    found.push([Glob::starred(pattern), Glob::any(), Glob::any()]);
                } else {
                    laid_over(&Glob::new([&format!("{pattern}/"), ""]).tokens(), "", &mut found)?;
                }
            }
        }
        Set::Source(_) | Set::Destination(_) | Set::Ports(_) | Set::ServerName(_) | Set::Request | Set::Nothing => {}
    }
    Ok(found)
}

/// The ways in which a pattern matches `before` TD `/ns/` NS `/sa/` SA in full.
fn laid_over(tokens: &[Token], before: &str, found: &mut Vec<Product>) -> Result<(), Bound> {
    let limit = found.len() + PRODUCTS_MAX;
    for start in through(tokens, 0, before) {
        for (end, domain) in names(tokens, start) {
            for start in through(tokens, end, "/ns/") {
                for (end, namespace) in names(tokens, start) {
                    for start in through(tokens, end, "/sa/") {
                        let rest = tokens.get(start..).unwrap_or_default();
                        if rest.is_empty() || rest.contains(&Token::Char('/')) {
                            continue;
                        }
                        found.push([domain.clone(), namespace.clone(), Glob::of_tokens(rest)]);
                        if found.len() > limit {
                            return Err(Bound::Classes);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Where the pattern can stand after this fixed text. A star stands for what follows it, too.
fn through(tokens: &[Token], from: usize, text: &str) -> Vec<usize> {
    let mut live = vec![from];
    for c in text.chars() {
        let mut next = Vec::new();
        for at in live {
            let at = if tokens.get(at) == Some(&Token::Star) {
                next.push(at);
                at + 1
            } else {
                at
            };
            if tokens.get(at) == Some(&Token::Char(c)) {
                next.push(at + 1);
            }
        }
        next.sort_unstable();
        next.dedup();
        live = next;
    }
    live
}

/// Where the pattern can stand after a name, and what it asks of that name: up to each star, and up to the `/` that ends it.
fn names(tokens: &[Token], from: usize) -> Vec<(usize, Glob)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Star => found.push((at, Glob::of_tokens(tokens.get(from..=at).unwrap_or_default()))),
            Token::Char('/') => {
                // After a star there is nothing new: it may stand for nothing.
                if at > from && tokens.get(at - 1) != Some(&Token::Star) {
                    found.push((at, Glob::of_tokens(tokens.get(from..at).unwrap_or_default())));
                }
                break;
            }
            Token::Char(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Identities, products};
    use crate::address::Address;
    use crate::identity::SpiffeId;
    use crate::matcher::{Names, Set, TextSet, Truth, View, namespace_glob};

    fn texts(set: &Set) -> Vec<String> {
        let mut texts: Vec<String> =
            products(set).unwrap().iter().map(|product| product.each_ref().map(super::Glob::text).join(" ")).collect();
        texts.sort();
        texts.dedup();
        texts
    }

    #[test]
    fn patterns_come_apart() {
        let principals = |text: &str| Set::Principals(TextSet::new([text]));
        let namespaces = |text: &str| Set::NamespacesRaw(vec![namespace_glob(text)]);
        for (set, expected) in [
            (principals("td/ns/foo/sa/bar"), vec!["td foo bar"]),
            (principals("td/ns/foo/*"), vec!["td foo *"]),
            (principals("td/ns/foo*"), vec!["td foo* *"]),
            (principals("t*"), vec!["t* * *"]),
            (principals("*/sa/bar"), vec!["* * bar"]),
            (principals("*oo/sa/bar"), vec!["* *oo bar"]),
            (principals("*s/foo/sa/bar"), vec!["* foo bar"]),
            (principals("*x/foo/sa/bar"), vec![]),
            (principals("*"), vec!["* * *"]),
            (principals("odd/name"), vec![]),
            (principals("a*b/ns/foo/sa/bar"), vec!["a*b foo bar"]),
            (namespaces("foo"), vec!["* foo *"]),
            (namespaces("f*o"), vec!["* f*o *"]),
            (namespaces("ns"), vec!["* ns *", "ns * *"]),
            (namespaces("sa"), vec!["* ns *", "* sa *"]),
            (Set::TrustDomains(vec![Arc::from("td")]), vec!["td * *"]),
            (Set::TrustDomains(vec![Arc::from("t*")]), vec!["t* * *"]),
        ] {
            assert_eq!(texts(&set), expected, "{set:?}");
        }
    }

    #[test]
    fn classes_are_fine_enough_and_not_finer() {
        let sets = [
            Set::Principals(TextSet::new(["td/ns/foo/sa/bar", "td/ns/foo/*", "*/sa/x"])),
            Set::NamespacesRaw(["f*", "*o", "bar"].map(namespace_glob).into()),
        ];
        let identities = Identities::new(&sets.iter().collect::<Vec<_>>(), ["td", "default", "default"]).unwrap();
        let mut seen = Vec::new();
        for class in &identities.classes {
            let view = |id| View {
                source: Address::V4(0),
                destination: Address::V4(0),
                port: 0,
                names: Names::One(id),
                server_name: None,
            };
            let answers: Vec<Truth> = sets.iter().map(|set| set.truth(&view(&class.example))).collect();
            assert!(!seen.contains(&answers), "one class for each answer: {identities:?}");
            seen.push(answers);
        }
        assert_eq!(seen.len(), 4);
        let id = SpiffeId::new("other", "bar", "x").unwrap();
        let class = identities.class_of(&id).unwrap();
        assert!(identities.classes[class].boxes.len() > 1, "patterns of one list are one question");
    }
}

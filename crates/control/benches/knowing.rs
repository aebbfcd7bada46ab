//! How long the verbs that only read take: `cargo bench -p control --bench knowing` prints figures (docs/benchmarks.md). They are measured,
//! never asserted. Each is the shortest of several runs; beside the clock stands the time on a processor, which other work of the
//! machine does not lengthen. `cargo bench -p control --bench knowing -- 1000` measures only that number of policies; with the word `matrix`
//! that verb too, which takes minutes.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock and its arguments, prints, and ends at the first surprise"
)]

use std::fmt::Write;
use std::fs;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use control::analyze::{Options, analyze};
use control::bundle::{self, Bundle, Piece, PieceRead, Text};
use control::explain::{self, Asked, Setting};
use policy::ask::Verdict;

/// Runs of one measurement.
const RUNS: usize = 7;
/// Workloads of every mesh, each with a Deployment and a Service.
const WORKLOADS: usize = 500;
/// Namespaces that they are in.
const NAMESPACES: usize = 20;
/// Nanoseconds that threads other than the first one have read.
static ELSEWHERE: AtomicU64 = AtomicU64::new(0);

fn main() {
    let wanted: Vec<usize> = std::env::args().skip(1).filter_map(|one| one.parse().ok()).collect();
    let matrix = std::env::args().any(|one| one == "matrix");
    for policies in [100, 300, 1_000, 3_000] {
        if wanted.is_empty() || wanted.contains(&policies) {
            for (texts, in_words) in [(texts(policies, 0), "a file for each namespace"), (whole(policies), "one file")]
            {
                println!("{policies} policies, {WORKLOADS} workloads, {in_words}");
                measure(&texts, policies, matrix);
            }
        }
    }
}

fn measure(texts: &[Text], policies: usize, matrix: bool) {
    say("read, on one processor", || ManuallyDrop::new(bundle::read(texts.to_vec(), "default")));
    let bundle = say("read, on all", || read(texts));
    assert!(bundle.problems().is_empty(), "{:?}", bundle.problems());
    say("translate", || bundle.translate(None, None));
    say("explain, without edits", || explained(&read(texts), false));
    say("explain, with edits", || explained(&read(texts), true));
    say("  of that the edits and the rest, once read", || explained(&bundle, true));
    say("analyze, with reading", || analyze(&read(texts), &Options::default()));
    if matrix {
        say("explain --matrix, once read", || explain::matrix(bundle.mesh(None, None), 5432));
    }
    let changed = self::texts(policies, 1);
    say("diff, every tenth policy changed, with reading", || {
        control::diff::report(&read(texts).mesh(None, None), &read(&changed).mesh(None, None))
    });
}

/// Read, and not given back: freeing is no part of an answer.
fn read(texts: &[Text]) -> ManuallyDrop<Bundle> {
    ManuallyDrop::new(bundle::read_with(texts.to_vec(), "default", on_all_processors))
}

/// As the binary does it (`cli/src/sources/processors.rs`).
fn on_all_processors(pieces: &[Piece<'_>]) -> Vec<PieceRead> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut done, before) = (Vec::new(), on_processor());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return (done, on_processor().saturating_sub(before)) };
            done.push((index, piece.read()));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..thread::available_parallelism().unwrap().get()).map(|_| scope.spawn(work)).collect();
        let mut done = work().0;
        for other in others {
            let (more, time) = other.join().unwrap();
            ELSEWHERE.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
            done.extend(more);
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, read)| read).collect()
}

/// From a workload of another namespace to one: denied, so there is an edit that allows to be found.
fn explained(bundle: &Bundle, edits: bool) -> usize {
    let translated = bundle.translate(None, None);
    let asked = Asked { from: "app-1.ns-1", to: "app-0.ns-0", port: 9999, namespace: "default", ..Asked::default() };
    let ends = explain::ends(&asked, &translated.mesh, bundle.objects()).unwrap();
    let report = explain::report(bundle, &translated.mesh, &translated.translator, &ends);
    assert_eq!(report.answer.verdict, Verdict::Deny);
    if edits {
        let setting = Setting { bundle, namespace: "default", profile: None, config: None };
        assert!(explain::smallest(&setting, &translated.mesh, &ends, &Verdict::Allow).is_some());
    }
    report.policies.len()
}

/// The shortest of several runs by each of the two times.
fn say<T>(what: &str, mut run: impl FnMut() -> T) -> T {
    let mut timed = || {
        let (start, before) = (Instant::now(), on_processor() + elsewhere());
        let result = run();
        (start.elapsed(), (on_processor() + elsewhere()).saturating_sub(before), result)
    };
    let mut best = timed();
    for _ in 1..RUNS {
        let next = timed();
        best = (best.0.min(next.0), best.1.min(next.1), next.2);
    }
    println!("  {what:<50} {:>10.1?}   on a processor {:>10.1?}", best.0, best.1);
    best.2
}

/// How long other threads have read.
fn elsewhere() -> Duration {
    Duration::from_nanos(ELSEWHERE.load(Ordering::Relaxed))
}

/// How long this thread has run; the first number of `schedstat`.
fn on_processor() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// A text for each namespace. `version` 1 has other ports in every tenth policy.
fn texts(policies: usize, version: usize) -> Vec<Text> {
    let mut all: Vec<String> = (0..NAMESPACES).map(namespace).collect();
    for workload in 0..WORKLOADS {
        all[workload % NAMESPACES].push_str(&manifests(workload));
    }
    for number in 0..policies {
        let changed = number % 10 == 0 && version > 0;
        all[number % NAMESPACES].push_str(&policy(number, if changed { 7000 } else { 8000 }));
    }
    let named = all.into_iter().enumerate();
    named.map(|(index, text)| Text { name: format!("ns-{index}.yaml"), bytes: text.into_bytes() }).collect()
}

/// The same as one text, as `helm template` and `kustomize build` print it.
fn whole(policies: usize) -> Vec<Text> {
    let bytes = texts(policies, 0).into_iter().flat_map(|text| text.bytes).collect();
    vec![Text { name: "-".to_owned(), bytes }]
}

fn namespace(number: usize) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns-{number}\n")
}

fn manifests(number: usize) -> String {
    let home = number % NAMESPACES;
    let meta = format!("metadata:\n  name: app-{number}\n  namespace: ns-{home}\n");
    let mut text = format!("---\napiVersion: v1\nkind: ServiceAccount\n{meta}");
    let _infallible = write!(
        text,
        "---\napiVersion: apps/v1\nkind: Deployment\n{meta}spec:\n  replicas: 1\n  selector:\n    matchLabels: {{app: app-{number}}}\n  \
         template:\n    metadata:\n      labels: {{app: app-{number}, tier: t{}}}\n    spec:\n      serviceAccountName: app-{number}\n      \
         containers:\n        - name: main\n          image: example.com/app:1\n          ports:\n            - containerPort: 5432\n",
        number % 7
    );
    let _infallible = write!(
        text,
        "---\napiVersion: v1\nkind: Service\n{meta}spec:\n  selector: {{app: app-{number}}}\n  ports:\n    - name: tcp-main\n      \
         port: 5432\n      targetPort: 5432\n"
    );
    text
}

/// Most select one workload, every tenth a whole namespace; in turn by principal, by namespace, by address.
fn policy(number: usize, port: usize) -> String {
    let home = number % NAMESPACES;
    let target = number % WORKLOADS;
    let selector = if number % 10 == 3 {
        format!("  selector:\n    matchLabels:\n      tier: t{}\n", number % 7)
    } else {
        format!("  selector:\n    matchLabels:\n      app: app-{target}\n")
    };
    let source = match number % 3 {
        0 => format!("principals: [\"cluster.local/ns/ns-{home}/sa/app-{}\"]", (number + NAMESPACES) % WORKLOADS),
        1 => format!("namespaces: [\"ns-{}\"]", (number + 1) % NAMESPACES),
        _ => format!("ipBlocks: [\"10.{}.0.0/16\"]", number % 250),
    };
    let action = if number % 5 == 4 { "DENY" } else { "ALLOW" };
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p-{number}\n  namespace: ns-{home}\nspec:\n\
         {selector}  action: {action}\n  rules:\n    - from:\n        - source:\n            {source}\n      to:\n        - operation:\n            \
         ports: [\"5432\", \"{}\"]\n",
        port + number % 100
    )
}

//! What the parsers of texts and bodies begin with: our own cases, parts of files, and one short example of each form.

use std::fs;
use std::path::{Path, PathBuf};

/// Inputs that failed once.
const FOUND: &[&[u8]] = &[b"a: \xff\xff\xff\0\0", b"# a\rformat: 1\rcases:\r- {id: [\r"];
/// The longest part of a file that is one seed: many short inputs find more than few long ones.
const SEED_BYTES_MAX: usize = 1500;

/// A Deployment with its Service, two pods, and a policy.
pub(crate) const SMALL_MESH: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: foo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers: [{name: c, image: i, ports: [{containerPort: 8080}], resources: {limits: {cpu: 100m}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: foo, labels: {app: db, tier: data}}
spec: {serviceAccountName: db, containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: batch, namespace: foo}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: foo}
spec:
  selector: {matchLabels: {app: db}}
  rules: [{from: [{source: {serviceAccounts: [web], notNamespaces: [bar]}}], to: [{operation: {ports: ['5432'], methods: [GET]}}]}]
";

const DEFINITION: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [w]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: '.spec.sizes[0]'}, {name: X, type: date, jsonPath: \".status[?(@.type=='a')].b\"}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, exclusiveMaximum: true, maximum: 9, default: 2}
              color: {type: string, enum: [red, blue], default: red, maxLength: 4}
              sizes: {type: array, minItems: 1, x-kubernetes-list-type: set, items: {type: integer, nullable: true}}
              port: {x-kubernetes-int-or-string: true}
              nested: {type: object, additionalProperties: {type: object, x-kubernetes-preserve-unknown-fields: true}}
            oneOf: [{required: [color]}, {not: {required: [size]}}]
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

/// The folder of this crate, also for a crate elsewhere that takes this file in.
fn control(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = [here.join(path), here.join("../crates/control").join(path)];
    found.into_iter().find(|path| path.exists()).unwrap()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort_unstable();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|name| name == "yaml") {
            found.push(path);
        }
    }
}

/// Parts of our YAML files, each a few cases or objects.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    files(&control("tests/conformance"), &mut paths);
    let mut seeds: Vec<Vec<u8>> = FOUND.iter().map(|found| found.to_vec()).collect();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let (head, cases) = text.split_once("cases:\n").unwrap();
        for (index, case) in cases.split("\n- id: ").enumerate() {
            let case = case.strip_prefix("- id: ").unwrap_or(case);
            let seed = format!("{head}cases:\n- id: {case}\n");
            let policy = case.split_once("policies: |\n").map(|(_, policy)| unindented(policy));
            seeds.extend(policy.filter(|_| index % 3 == 0).map(String::into_bytes));
            seeds.extend(Some(seed.into_bytes()).filter(|seed| index % 3 == 1 && seed.len() <= SEED_BYTES_MAX));
        }
    }
    seeds
}

fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("    ")).collect();
    lines.join("\n") + "\n"
}

/// One in three of the sets that `analyze` is tried on: they are alike, and to inject one takes milliseconds.
pub(super) fn manifests() -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    files(&control("tests/analyze"), &mut paths);
    let short = paths.iter().map(|path| fs::read(path).unwrap()).filter(|bytes| bytes.len() <= SEED_BYTES_MAX);
    short.step_by(3).chain([SMALL_MESH.as_bytes().to_vec()]).collect()
}

/// Tests and assertions with every field.
pub(super) fn suites() -> Vec<Vec<u8>> {
    let example = fs::read_to_string(control("../../docs/policytest.example.yaml")).unwrap();
    let mut seeds: Vec<Vec<u8>> = example.split("---\n").map(|document| document.as_bytes().to_vec()).collect();
    let case = |rest: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec: {{cases: [{{{rest}}}]}}\n"
        )
        .into_bytes()
    };
    let assertion = |rest: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: PolicyAssertion\nmetadata: {{name: t}}\nspec: {{assertions: [{{{rest}}}]}}\n"
        )
        .into_bytes()
    };
    seeds.push(case("from: {identity: none}, to: db-0, port: 5432, expect: deny, because: 'foo/db[0]'"));
    seeds.push(assertion("expect: deny, notFrom: [{serviceAccount: foo/web}], to: [db-0], ports: [5432, 1-65535]"));
    seeds.push(assertion("expect: allow, from: [{namespace: 'f*'}], to: [{namespace: foo, labels: {app: db}}]"));
    seeds
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}

/// Selectors of labels and of fields.
pub(super) fn selectors() -> Vec<Vec<u8>> {
    lines(
        "app=web\napp==web,tier!=data\ntier in (data, logic),!old\na notin (b),c\nx>3,x<9\n\
         metadata.name=db-0,status.phase!=Running\nmetadata.name=a\\,b\nspec.hostNetwork=false",
    )
}

/// Quantities and shares.
pub(super) fn quantities() -> Vec<Vec<u8>> {
    lines("1\n100m\n1.5\n.5Gi\n64Mi\n1e3\n1E-3\n12n\n25%\n340282366920938463463374607431768211455")
}

/// Names as people write them.
pub(super) fn workload_names() -> Vec<Vec<u8>> {
    lines("web\ndeploy/web\nweb.foo\nfoo/web\npod/db-0\nsvc/web.foo\ndb-0")
}

/// Settings of a mesh.
pub(super) fn mesh_configs() -> Vec<Vec<u8>> {
    let text = "trustDomain: a\ntrustDomainAliases: [b, c]\nrootNamespace: istio-system\nextensionProviders:\n- name: opa\n  \
                envoyExtAuthzGrpc: {service: x.y, port: 9000}\ntidegate: {profile: ambient, strict: true, sameNode: mtls}\n";
    let mut seeds = seeds();
    seeds.truncate(40);
    seeds.push(text.as_bytes().to_vec());
    seeds
}

/// Patches of the three types.
pub(super) fn patches() -> Vec<Vec<u8>> {
    let mut seeds = lines(
        "[{op: replace, path: /spec/containers/0/image, value: j}, {op: test, path: /metadata/labels/a, value: b}]\n\
         [{op: add, path: /spec/containers/-, value: {name: d}}, {op: move, from: /metadata/labels, path: /spec/x~1y}]\n\
         {metadata: {labels: {a: null, c: d}}, spec: {containers: [{name: c, image: j}]}}\n\
         {spec: {containers: [{name: c, $patch: delete}], $setElementOrder/containers: [{name: c}], $retainKeys: [containers]}}\n\
         {metadata: {$deleteFromPrimitiveList/finalizers: [a], labels: {$patch: replace, x: y}}}",
    );
    seeds.extend(self::seeds().into_iter().take(40));
    seeds
}

/// Bodies in protobuf: a pod in its envelope, as `api::proto` tells of the wire, and texts.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let field = |number: u8, bytes: &[u8]| {
        let mut all = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        all.extend_from_slice(bytes);
        all
    };
    let port = [field(1, b"http"), vec![3 << 3, 0x90, 0x3f]].concat();
    let container = [field(1, b"c"), field(2, b"i"), field(6, &port)].concat();
    let labels = field(11, &[field(1, b"a"), field(2, b"b")].concat());
    let pod = [field(1, &[field(1, b"p"), labels].concat()), field(2, &field(2, &container))].concat();
    let body = [field(1, &[field(1, b"v1"), field(2, b"Pod")].concat()), field(2, &pod)].concat();
    let mut seeds = vec![body.clone(), [b"k8s\0".to_vec(), body].concat()];
    seeds.extend(self::seeds().into_iter().take(40));
    seeds
}

/// Definitions of kinds.
pub(super) fn definitions() -> Vec<Vec<u8>> {
    vec![DEFINITION.as_bytes().to_vec()]
}

//! What of a pod's manifest is refused, and what each container is to be. Pure.

use std::path::Path;

use api::Object;
use linux::cgroup::Bounds;
use linux::userns::Ids;
use serde_json::Value;

use super::volumes::{SCRATCH_DEFAULT_BYTES, Source, Volumes};
use crate::images::Image;
use crate::runtime::spec::{
    Account, ContainerSpec, File, Input, Link, MEMORY_DEFAULT_BYTES, MemoryMount, Mount, PROCESSES_DEFAULT, Root,
};

/// What every container of a pod shares.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) addresses: &'a [String],
    pub(super) host: &'a str,
    pub(super) name_servers: &'a [String],
    pub(super) links: &'a [Link],
    pub(super) data_dir: &'a Path,
}

/// Why a pod is refused as a whole, if it is. `ids` are the users and groups that its processes can have.
pub(super) fn refusal(pod: &Object, ids: &Ids, is_virtual: impl Fn(&str) -> bool) -> Option<String> {
    for (field, what) in
        [("hostNetwork", "the host's network"), ("hostPID", "the host's processes"), ("hostIPC", "the host's IPC")]
    {
        if pod.at("/spec").get(field) == Some(&Value::Bool(true)) {
            return Some(format!("spec.{field}: pods of a local mesh never share {what}; remove the field"));
        }
    }
    let lists = ["initContainers", "containers"];
    for container in lists
        .iter()
        .flat_map(|list| pod.items_at(if *list == "containers" { "/spec/containers" } else { "/spec/initContainers" }))
    {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        if is_virtual(name) {
            continue;
        }
        if let Some(why) = user_refusal(pod, container, ids) {
            return Some(format!("container {name}: {why}"));
        }
        let context = container.get("securityContext").unwrap_or(&Value::Null);
        if context.get("privileged") == Some(&Value::Bool(true)) {
            return Some(format!("container {name}: securityContext.privileged is refused on a local mesh; remove it"));
        }
        let added = context.pointer("/capabilities/add").and_then(Value::as_array);
        for added in added.into_iter().flatten().filter_map(Value::as_str) {
            if !linux::caps::CONTAINER.iter().any(|(known, _)| *known == plain_capability(added)) {
                return Some(format!(
                    "container {name}: capability {added} is refused on a local mesh; remove it from securityContext.capabilities.add"
                ));
            }
        }
    }
    pod.items_at("/spec/volumes").iter().find_map(super::volumes::refusal)
}

/// Why a container cannot run as whom its pod says, if it cannot: it is not run as anybody else instead.
fn user_refusal(pod: &Object, container: &Value, ids: &Ids) -> Option<String> {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let one = |name: &str| context(pod, container, name).and_then(number);
    let own = pod.at("/spec/securityContext");
    let further = own.get("supplementalGroups").and_then(Value::as_array).into_iter().flatten().filter_map(number);
    let volumes = own.get("fsGroup").and_then(number);
    let users = one("runAsUser").filter(|user| !ids.has_user(*user)).map(|user| ("runAsUser", user));
    let groups = one("runAsGroup").filter(|group| !ids.has_group(*group)).map(|group| ("runAsGroup", group));
    let further =
        volumes.map(|group| ("fsGroup", group)).into_iter().chain(further.map(|it| ("supplementalGroups", it)));
    let (field, id) =
        users.or(groups).or_else(|| further.into_iter().find(|(_, it)| *it != 0 && !ids.has_further_group(*it)))?;
    Some(format!(
        "securityContext.{field} {id}: this mesh was started without root, so that its pods have one user, 0, and one \
         group, 0; remove the field, or start the mesh as root"
    ))
}

fn plain_capability(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}

/// What a container is to be.
pub(super) fn container(
    pod: &Object,
    container: &Value,
    image: &Image,
    around: &Surroundings<'_>,
    volumes: &Volumes,
    log: &Path,
) -> Result<ContainerSpec, String> {
    let mut environment = image.environment.clone();
    environment.push(("HOSTNAME".to_owned(), host_name(pod)));
    environment.push(("TIDEGATE_DATA_DIR".to_owned(), around.data_dir.display().to_string()));
    for from in container.get("envFrom").and_then(Value::as_array).into_iter().flatten() {
        environment.extend(volumes.variables(pod, from)?);
    }
    for variable in container.get("env").and_then(Value::as_array).into_iter().flatten() {
        let name = variable.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let value = match variable.get("valueFrom") {
            Some(from) => volumes.variable(pod, from, around)?,
            None => variable.get("value").and_then(Value::as_str).map(str::to_owned),
        };
        // As in Kubernetes: what is written here may name what was defined before it; what comes from elsewhere is as it is.
        let value = match value {
            Some(value) if variable.get("valueFrom").is_none() => Some(expanded(&value, &environment)?),
            value => value,
        };
        environment.extend(value.map(|value| (name, value)));
    }
    let words = |name: &str| -> Result<Option<Vec<String>>, String> {
        let list = container.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
        let words = list.map(|list| list.iter().filter_map(Value::as_str).map(|word| expanded(word, &environment)));
        words.map(Iterator::collect).transpose()
    };
    // What an image says is as it is; what the pod says may name variables.
    let (entrypoint, arguments) = match (words("command")?, words("args")?) {
        (Some(command), arguments) => (command, arguments.unwrap_or_default()),
        (None, Some(arguments)) => (image.entrypoint.clone(), arguments),
        (None, None) => (image.entrypoint.clone(), image.arguments.clone()),
    };
    // Only the image's own program is known to say when it serves.
    let tells_ready =
        image.tells_ready && entrypoint.first().is_some_and(|program| image.entrypoint.first() == Some(program));
    let (mounts, memory) = mounts(container, volumes)?;
    let is_image = image.root != Root::ToolBox;
    let limit = container.pointer("/resources/limits/ephemeral-storage").and_then(bytes);
    let who = identity(pod, container, image)?;
    Ok(ContainerSpec {
        command: [entrypoint, arguments].concat(),
        directory: container.get("workingDir").and_then(Value::as_str).unwrap_or(&image.directory).to_owned(),
        root: image.root.clone(),
        writable_bytes: limit.or_else(|| is_image.then_some(SCRATCH_DEFAULT_BYTES)),
        capabilities: capabilities(container),
        read_only_root: context(pod, container, "readOnlyRootFilesystem") == Some(&Value::Bool(true)),
        files: files(pod, around, is_image),
        links: if is_image { Vec::new() } else { around.links.to_vec() },
        mounts,
        memory,
        applets: if is_image { Vec::new() } else { crate::applets::NAMES.map(str::to_owned).to_vec() },
        tells_ready,
        input: input(container),
        tty: is_on(container, "tty"),
        log: log.to_owned(),
        environment,
        ..who
    })
}

/// A field of the container's security context, else of the pod's.
fn context<'a>(pod: &'a Object, container: &'a Value, name: &str) -> Option<&'a Value> {
    let own = container.get("securityContext").and_then(|context| context.get(name));
    own.or_else(|| pod.at("/spec/securityContext").get(name))
}

/// Who runs the program: a specification that says nothing else. Names of an image are resolved where its files are seen.
fn identity(pod: &Object, container: &Value, image: &Image) -> Result<ContainerSpec, String> {
    let number = |name: &str| {
        context(pod, container, name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
    };
    let (own, own_group) = image.user.split_once(':').unwrap_or((&image.user, ""));
    let user = number("runAsUser").map_or_else(|| own.to_owned(), |user| user.to_string());
    if context(pod, container, "runAsNonRoot") == Some(&Value::Bool(true)) {
        match user.parse::<u32>() {
            _ if user.is_empty() => {
                Err("container has runAsNonRoot and image will run as root; set securityContext.runAsUser")
            }
            Ok(0) => Err("container has runAsNonRoot and its user is 0; set securityContext.runAsUser to another"),
            Ok(_) => Ok(()),
            Err(_) => Err(
                "container has runAsNonRoot and the image's user is a name, which says nothing of its number; set securityContext.runAsUser",
            ),
        }?;
    }
    let groups = pod.at("/spec/securityContext").get("supplementalGroups").and_then(Value::as_array);
    let mut more_groups: Vec<u32> =
        groups.into_iter().flatten().filter_map(|group| u32::try_from(group.as_u64()?).ok()).collect();
    more_groups.extend(number("fsGroup"));
    if image.root == Root::ToolBox {
        let user = number("runAsUser").unwrap_or(0);
        return Ok(ContainerSpec {
            user,
            group: number("runAsGroup").unwrap_or(0),
            more_groups,
            ..ContainerSpec::default()
        });
    }
    // The group that an image names is that of the user it names.
    let own_group = if number("runAsUser").is_none() { own_group } else { "" };
    let group = number("runAsGroup").map_or_else(|| own_group.to_owned(), |group| group.to_string());
    Ok(ContainerSpec { account: Some(Account { user, group, more_groups }), ..ContainerSpec::default() })
}

fn is_on(container: &Value, name: &str) -> bool {
    container.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn input(container: &Value) -> Input {
    match (is_on(container, "stdin"), is_on(container, "stdinOnce")) {
        (false, _) => Input::None,
        (true, false) => Input::Kept,
        (true, true) => Input::Once,
    }
}

/// Longest argument or variable that the kernel takes (`MAX_ARG_STRLEN`, less the name). Without a bound, variables that
/// name each other many times over grow beyond any memory.
pub(crate) const WORD_BYTES_MAX: usize = 128 * 1024;

/// `$(NAME)` as Kubernetes expands it: known names only, once, from left to right; `$$` is a plain `$`.
pub(crate) fn expanded(word: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut done = String::new();
    let mut rest = word;
    // Once no bracket closes, none will: a word of many open ones is not searched to its end for each.
    let mut closes = true;
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        let opened = after.strip_prefix('(').filter(|_| closes);
        let named = opened.and_then(|after| after.split_once(')'));
        closes &= opened.is_none() || named.is_some();
        let value = named.and_then(|(name, _)| environment.iter().rev().find(|(known, _)| known == name));
        (rest, done) = match (after.strip_prefix('$'), named, value) {
            (Some(escaped), ..) => (escaped, done + "$"),
            (None, Some((_, after)), Some((_, value))) => (after, done + value),
            (None, Some((name, after)), None) => (after, format!("{done}$({name})")),
            _ => (after, done + "$"),
        };
        if done.len() > WORD_BYTES_MAX {
            break;
        }
    }
    done.push_str(rest);
    if done.len() > WORD_BYTES_MAX {
        return Err(format!(
            "an argument or variable is longer than {WORD_BYTES_MAX} bytes; use a file of a config map"
        ));
    }
    Ok(done)
}

fn capabilities(container: &Value) -> Vec<String> {
    let listed = |name: &str| -> Vec<&str> {
        let list = container.pointer(&format!("/securityContext/capabilities/{name}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(plain_capability).collect()
    };
    let (dropped, added) = (listed("drop"), listed("add"));
    let keeps = |name: &str| added.contains(&name) || !(dropped.contains(&"ALL") || dropped.contains(&name));
    linux::caps::CONTAINER.iter().map(|(name, _)| *name).filter(|name| keeps(name)).map(str::to_owned).collect()
}

fn mounts(container: &Value, volumes: &Volumes) -> Result<(Vec<Mount>, Vec<MemoryMount>), String> {
    let (mut files, mut memory) = (Vec::new(), Vec::new());
    for mount in container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| mount.get(name).and_then(Value::as_str).unwrap_or_default();
        let (name, target) = (text("name").to_owned(), text("mountPath").to_owned());
        match volumes.source(&name, text("subPath"))? {
            Source::Files(source) => files.push(Mount { source, target, read_only: true }),
            Source::Memory => {
                let read_only = mount.get("readOnly") == Some(&Value::Bool(true));
                memory.push(MemoryMount { name, target, read_only });
            }
        }
    }
    Ok((files, memory))
}

/// What a pod may take of the machine: the memory limits of the containers that run, and so many processes.
pub(super) fn bounds(pod: &Object, is_virtual: impl Fn(&str) -> bool) -> Bounds {
    let containers = pod.items_at("/spec/initContainers").iter().chain(pod.items_at("/spec/containers"));
    let runs = |container: &&Value| !is_virtual(container.get("name").and_then(Value::as_str).unwrap_or_default());
    let limit = |container: &Value| container.pointer("/resources/limits/memory").and_then(bytes);
    let memory = containers.filter(runs).map(|container| limit(container).unwrap_or(MEMORY_DEFAULT_BYTES));
    Bounds { processes: PROCESSES_DEFAULT, memory_bytes: memory.fold(0, u64::saturating_add) }
}

/// A quantity as whole bytes.
pub(super) fn bytes(quantity: &Value) -> Option<u64> {
    let text = quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned);
    u64::try_from(api::quantity::parse(&text)? / 1000).ok().filter(|bytes| *bytes > 0)
}

/// The name of the pod's host.
pub(super) fn host_name(pod: &Object) -> String {
    let wanted = pod.str_at("/spec/hostname");
    let name = if wanted.is_empty() { pod.name() } else { wanted };
    // The kernel takes 64 bytes; Kubernetes cuts at 63.
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The files below /etc: nothing of the host's. An image has its own users.
fn files(pod: &Object, around: &Surroundings<'_>, is_image: bool) -> Vec<File> {
    let namespace = pod.namespace().unwrap_or("default");
    let host = host_name(pod);
    let own: Vec<String> = around.addresses.iter().map(|address| format!("{address}\t{host}\n")).collect();
    let servers: Vec<String> = around.name_servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let user = |name: &str, number: u32, home: &str, shell: &str| {
        format!("{name}:x:{number}:{number}:{name}:{home}:{shell}\n")
    };
    let nobody = user("nobody", 65534, "/nonexistent", "/usr/sbin/nologin");
    let file = |path: &str, text: String| File { path: path.to_owned(), text };
    let hosts = ["127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(), own.concat()].concat();
    let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n");
    let mut files = vec![
        file("/etc/hostname", format!("{host}\n")),
        file("/etc/hosts", hosts),
        file("/etc/resolv.conf", [search, servers.concat(), "options ndots:5\n".to_owned()].concat()),
    ];
    if !is_image {
        files.extend([
            file("/etc/passwd", [user("root", 0, "/root", "/bin/sh"), nobody].concat()),
            file("/etc/group", "root:x:0:\nnogroup:x:65534:\n".to_owned()),
            file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ]);
    }
    files
}

/// Names that tools on the host have by way of `/etc/alternatives` (`awk`, `pager`, `editor`): those links that lead to
/// programs below `/usr`. Only names of links are read, no file below `/etc`.
pub(super) fn alternatives() -> Vec<Link> {
    let directory = Path::new("/etc/alternatives");
    let listed = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let links = listed.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        let is_program = ["/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"].iter().any(|start| target.starts_with(start));
        let path = entry.path().to_str()?.to_owned();
        (is_program && !target.contains("..")).then_some(Link { path, target })
    });
    links.collect()
}

#[cfg(test)]
mod tests {
    use super::{Ids, MEMORY_DEFAULT_BYTES, WORD_BYTES_MAX, bounds, expanded, refusal};
    use serde_json::json;

    #[test]
    fn without_root_only_the_one_user_and_group_that_there_are_can_be_asked_for() {
        let without_root = Ids::of("0 1000 1", "0 1000 1", "deny");
        for (pod, container, refused) in [
            (json!({}), json!({}), None),
            (json!({ "runAsUser": 0, "runAsGroup": 0, "fsGroup": 0, "supplementalGroups": [0] }), json!({}), None),
            (json!({ "runAsUser": 1000 }), json!({ "runAsUser": 0 }), None),
            (json!({}), json!({ "runAsUser": 1000 }), Some("container c: securityContext.runAsUser 1000")),
            (json!({ "runAsUser": 65534 }), json!({}), Some("runAsUser 65534")),
            (json!({ "runAsGroup": 3 }), json!({ "runAsUser": 0 }), Some("runAsGroup 3")),
            (json!({ "fsGroup": 2000 }), json!({}), Some("fsGroup 2000")),
            (json!({ "supplementalGroups": [0, 4] }), json!({}), Some("supplementalGroups 4")),
        ] {
            let containers = json!([
                { "name": "c", "securityContext": container },
                { "name": "istio-proxy", "securityContext": { "runAsUser": 1337 } },
            ]);
            let mut object = api::Object::named("v1", "Pod", Some("foo"), "p");
            object.set("/spec", json!({ "containers": containers, "securityContext": pod }));
            let said = |ids: &Ids| refusal(&object, ids, |name| name == "istio-proxy");
            match refused {
                None => assert_eq!(said(&without_root), None, "{pod} {container}"),
                Some(words) => assert!(said(&without_root).is_some_and(|why| why.contains(words)), "{pod} {container}"),
            }
            assert_eq!(said(&Ids::here()), None, "as root: {pod} {container}");
        }
    }

    #[test]
    fn the_bounds_of_a_pod_are_the_limits_of_what_runs_in_it() {
        let limit = |memory: serde_json::Value| json!({ "name": "c", "resources": { "limits": { "memory": memory } } });
        let proxy = json!({ "name": "istio-proxy", "resources": { "limits": { "memory": "8Gi" } } });
        for (containers, wanted) in [
            (json!([limit("20Mi".into())]), 20 << 20),
            (json!([limit("20Mi".into()), limit(1_048_576.into()), proxy]), 21 << 20),
            (json!([limit("20Mi".into()), { "name": "d" }]), (20 << 20) + MEMORY_DEFAULT_BYTES),
            (json!([limit("0".into())]), MEMORY_DEFAULT_BYTES),
            (json!([limit("lots".into())]), MEMORY_DEFAULT_BYTES),
        ] {
            let mut pod = api::Object::named("v1", "Pod", Some("foo"), "p");
            pod.set("/spec", json!({ "containers": containers }));
            assert_eq!(bounds(&pod, |name| name == "istio-proxy").memory_bytes, wanted, "{containers}");
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn many_references_that_do_not_end_take_no_time() {
        // As long as a request may be. Searched to its end for each reference it would take a minute.
        let word = "$(".repeat(1 << 20);
        let begun = std::time::Instant::now();
        assert!(expanded(&word, &[]).is_err());
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }

    #[test]
    fn names_are_expanded_once_and_from_left_to_right() {
        let environment = environment(&[("A", "1"), ("B", "$(A)"), ("A", "2")]);
        for (word, wanted) in [
            ("$(A)", "2"),
            ("x$(B)y", "x$(A)y"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$($(A))", "$($(A))"),
            ("", ""),
        ] {
            assert_eq!(expanded(word, &environment).unwrap(), wanted, "{word}");
        }
    }

    #[test]
    fn variables_that_multiply_end_at_what_the_kernel_takes() {
        let ten = ["$(V)"; 10].concat();
        let mut value = "x".repeat(10);
        let mut rounds = 0;
        let error = loop {
            match expanded(&ten, &environment(&[("V", &value)])) {
                Ok(longer) => value = longer,
                Err(error) => break error,
            }
            rounds += 1;
        };
        assert_eq!(rounds, 4);
        assert!(value.len() <= WORD_BYTES_MAX && error.contains("131072"), "{error}");
    }
}

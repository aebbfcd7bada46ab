//! What a command of a walkthrough asks for. The demo has no shell and no kubectl: it reads the command and does the
//! same through the mesh's own API.

/// What one command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Something for a shell of the user's own; nothing to do on a throw-away mesh.
    Shell,
    /// `kubectl create ns NAME`
    CreateNamespace(String),
    /// `kubectl label namespace NAME KEY=VALUE`
    Label { namespace: String, key: String, value: String },
    /// `kubectl apply -f FILE -n NAMESPACE`, the file through `istioctl kube-inject` or as it is
    ApplySample { file: String, namespace: String, inject: bool },
    /// `kubectl apply -f - <<EOF …`
    ApplyText(String),
    /// `TCP_ECHO_IP=$(kubectl get pod …)`
    FindAddress { selector: String },
    /// `kubectl exec … -- sh -c '…' | grep "hello" …`
    Probe { selector: String, container: String, namespace: String, script: String },
    /// `kubectl delete namespace NAME`
    DeleteNamespace(String),
}

/// Reads a command; `address` is what `$TCP_ECHO_IP` stands for. `None`: a command that the demo does not know.
pub(super) fn read(command: &str, address: &str) -> Option<Action> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let flag = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied());
    match words.as_slice() {
        ["eval" | "cp", ..] => Some(Action::Shell),
        ["kubectl", "create", "ns", name] => Some(Action::CreateNamespace((*name).to_owned())),
        ["kubectl", "delete", "namespace", name] => Some(Action::DeleteNamespace((*name).to_owned())),
        ["kubectl", "label", "namespace", name, pair] => {
            let (key, value) = pair.split_once('=')?;
            Some(Action::Label { namespace: (*name).to_owned(), key: key.to_owned(), value: value.to_owned() })
        }
        ["kubectl", "apply", "-f", "-", "<<EOF", ..] => {
            let text = command.split_once("<<EOF\n")?.1;
            Some(Action::ApplyText(text.strip_suffix("EOF")?.to_owned()))
        }
        ["kubectl", "apply", "-f", "<(istioctl", "kube-inject", "-f", file, ..] => {
            let file = file.trim_end_matches(')').to_owned();
            Some(Action::ApplySample { file, namespace: flag("-n")?.to_owned(), inject: true })
        }
        ["kubectl", "apply", "-f", file, "-n", namespace] => {
            Some(Action::ApplySample { file: (*file).to_owned(), namespace: (*namespace).to_owned(), inject: false })
        }
        ["kubectl", "exec", ..] => Some(Action::Probe {
            selector: flag("-l")?.to_owned(),
            container: flag("-c")?.to_owned(),
            namespace: flag("-n")?.to_owned(),
            script: shell_word(command.split_once("sh -c ")?.1, address)?,
        }),
        [first, ..] if first.starts_with("TCP_ECHO_IP=$(kubectl") => {
            Some(Action::FindAddress { selector: flag("-l")?.to_owned() })
        }
        _ => None,
    }
}

/// The first word as a shell reads it, in single or double quotes.
fn shell_word(text: &str, address: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('\'') {
        return rest.split_once('\'').map(|(word, _)| word.to_owned());
    }
    let mut word = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => return Some(word.replace("$TCP_ECHO_IP", address)),
            '\\' => word.push(rest.next()?),
            other => word.push(other),
        }
    }
}

/// Where a probe's script connects to: the words after `nc`.
pub(super) fn target(script: &str) -> Option<(&str, u16)> {
    let mut words = script.split_once("nc ")?.1.split_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::walkthrough;

    #[test]
    fn every_command_of_both_texts_is_known() {
        for text in [walkthrough::ISTIO, walkthrough::ASM] {
            for step in walkthrough::parse(text).unwrap() {
                let action = read(&step.command, "10.0.0.1");
                assert!(action.is_some(), "{}", step.command);
                if let (Some(Action::Probe { script, .. }), Some(_)) = (action, step.output) {
                    assert!(target(&script).is_some(), "{script}");
                }
            }
        }
    }

    #[test]
    fn the_address_stands_where_the_shell_would_put_it() {
        let command = r#"kubectl exec $(kubectl get pod -l app=sleep -n foo -o x) -c sleep -n foo -- sh -c "echo \"port 9002\" | nc $TCP_ECHO_IP 9002" | grep "hello""#;
        let Some(Action::Probe { script, selector, .. }) = read(command, "10.9.8.7") else { panic!("not a probe") };
        assert_eq!(script, r#"echo "port 9002" | nc 10.9.8.7 9002"#);
        assert_eq!(selector, "app=sleep");
        assert_eq!(target(&script), Some(("10.9.8.7", 9002)));
    }

    #[test]
    fn other_commands_are_not_guessed() {
        assert_eq!(read("rm -rf /", ""), None);
        assert_eq!(read("kubectl create", ""), None);
    }
}

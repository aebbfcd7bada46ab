//! The acceptance test: both texts, command by command, with every kubectl that is at hand.
#![cfg(test)]

use control::walkthrough::{self, Step};
use e2e::mesh::{Kubectl, Mesh, Played, kubectls};

/// A destination that no policy of the texts reaches: from the same pod it must answer before and after a refusal.
const CONTROL: &str = r"kubectl create ns control >/dev/null
kubectl apply -n control -f samples/tcp-echo/tcp-echo.yaml >/dev/null";

/// A connection from the sleep pod to the control destination.
const CONTROL_PROBE: &str = r"kubectl exec $(kubectl get pod -l app=sleep -n foo -o jsonpath={.items..metadata.name}) -c sleep -n foo -- sh -c 'echo control | nc tcp-echo.control 9000'";

fn step(command: &str, output: Option<&str>) -> Step {
    Step { command: command.to_owned(), printed: false, output: output.map(str::to_owned) }
}

/// What the destination of a refused connection listens on, as `ss` sees it in the network namespace of that pod.
fn listening(refused: &Step) -> Step {
    let words: Vec<&str> = refused.command.split(|c: char| c.is_whitespace() || c == '"' || c == '\'').collect();
    let port = words.iter().position(|word| *word == "nc").and_then(|at| words.get(at + 2)).unwrap();
    let ss =
        format!("kubectl exec deploy/tcp-echo -c tcp-echo -n foo -- ss -Hltn 'sport = :{port}' | grep -c ':{port} '");
    step(&ss, Some("1\n"))
}

/// The steps with, around each refusal, a control connection before and after, and a look at the port.
fn with_controls(steps: &[Step]) -> Vec<Step> {
    let mut all = vec![step("tidegate samples . >/dev/null", None)];
    let mut ready = false;
    for one in steps {
        if one.is_refusal() {
            all.push(listening(one));
            all.push(step(CONTROL_PROBE, Some("hello control\n")));
        }
        all.push(one.clone());
        if one.is_refusal() {
            all.push(step(CONTROL_PROBE, Some("hello control\n")));
        }
        if !ready && one.command.starts_with("eval") {
            all.push(step(CONTROL, Some("")));
            ready = true;
        }
    }
    assert!(ready, "the text must set up its shell");
    all
}

/// What a refused `nc` and the `kubectl exec` around it may say, and nothing else.
fn is_mere_refusal(stderr: &str) -> bool {
    let mut refused = false;
    for line in stderr.lines() {
        match line {
            "command terminated with exit code 1" => {}
            _ if line.starts_with("nc: ") && line.ends_with("Connection refused") => refused = true,
            _ => return false,
        }
    }
    refused
}

fn judge(kubectl: &Kubectl, steps: &[Step], played: &[Played]) {
    for (step, got) in steps.iter().zip(played) {
        let context = format!("kubectl {}: {}\n{got:#?}", kubectl.version, step.command);
        assert_eq!(got.code, 0, "{context}");
        if let Some(expected) = &step.output {
            assert_eq!(&got.stdout, expected, "{context}");
        }
        if step.is_refusal() {
            assert!(is_mere_refusal(&got.stderr), "{context}");
        }
    }
}

fn play_text(text: &str) {
    let steps = with_controls(&walkthrough::parse(text).unwrap());
    for kubectl in kubectls() {
        let mesh = Mesh::up();
        let played = mesh.play(&kubectl, &steps);
        judge(&kubectl, &steps, &played);
    }
}

#[test]
fn the_istio_task_runs_word_for_word() {
    play_text(walkthrough::ISTIO);
}

#[test]
fn the_asm_text_runs_word_for_word() {
    play_text(walkthrough::ASM);
}

#[test]
fn twenty_runs_in_a_row_come_out_alike() {
    let steps = with_controls(&walkthrough::parse(walkthrough::ISTIO).unwrap());
    let kubectl = &kubectls()[1];
    let mesh = Mesh::up();
    for _ in 0..20 {
        let played = mesh.play(kubectl, &steps);
        judge(kubectl, &steps, &played);
        let gone = mesh.bash(kubectl, "eval \"$(tidegate env)\"; kubectl delete namespace control");
        assert!(gone.status.success(), "{}", e2e::mesh::told(&gone));
    }
}

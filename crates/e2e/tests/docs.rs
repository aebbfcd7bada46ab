//! The documents say what the tests run.
#![cfg(test)]

use control::walkthrough::{self, Step};
use e2e::mesh::{Mesh, kubectls};
use e2e::workspace_root;

#[test]
fn the_walkthroughs_in_docs_show_the_commands_that_are_run() {
    for (name, text) in [("istio-tcp", walkthrough::ISTIO), ("asm-tcp", walkthrough::ASM)] {
        let path = workspace_root().join(format!("docs/walkthroughs/{name}.md"));
        let document = std::fs::read_to_string(&path).unwrap();
        for step in walkthrough::parse(text).unwrap() {
            let shown = format!("$ {}\n{}", step.command, step.output.as_deref().unwrap_or_default());
            assert!(document.contains(&shown), "{} does not show:\n{shown}", path.display());
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = workspace_root();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(root.join(target).exists(), "{name} links to `{target}`, which is not there");
        }
    }
}

/// The commands of a section's first console block, each with the output that the text shows below it.
fn console_block(document: &str, section: &str) -> Vec<Step> {
    let (_, rest) = document.split_once(section).unwrap();
    let (_, rest) = rest.split_once("```console\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), printed: true, output: None });
        } else {
            let shown = steps.last_mut().unwrap().output.get_or_insert_default();
            shown.push_str(line);
            shown.push('\n');
        }
    }
    steps
}

#[test]
fn the_first_five_minutes_of_the_readme_go_as_it_says() {
    let readme = std::fs::read_to_string(workspace_root().join("README.md")).unwrap();
    let mut steps = console_block(&readme, "## The first five minutes\n");
    assert!(steps.iter().any(|step| step.output.is_some()), "the block shows a result");
    // Tests are root, and a machine with only root may have no sudo.
    let sudo = Step { command: "sudo() { \"$@\"; }".to_owned(), printed: false, output: None };
    steps.insert(0, sudo);
    for kubectl in kubectls() {
        let mesh = Mesh::down();
        for (step, got) in steps.iter().zip(mesh.play(&kubectl, &steps)) {
            assert_eq!(got.code, 0, "kubectl {}: {}\n{got:#?}", kubectl.version, step.command);
            if let Some(shown) = &step.output {
                assert_eq!(&got.stdout, shown, "kubectl {}: {}\n{got:#?}", kubectl.version, step.command);
            }
        }
    }
}

//! The documents say what the tests run.
#![cfg(test)]

use control::walkthrough;
use e2e::mesh::{Mesh, kubectls};
use e2e::page::{commands, faults};
use e2e::verbs::with_each;
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
    let pages =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "GUARANTEES.md", "samples/README.md"].map(str::to_owned);
    for name in pages.into_iter().chain(pages_in("docs")).chain(pages_in("docs/walkthroughs")) {
        let text = read(&name);
        let folder = root.join(&name).parent().unwrap().to_path_buf();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            assert!(folder.join(file).exists(), "{name} links to `{target}`, which is not there");
            if !place.is_empty() {
                let page =
                    if file.is_empty() { text.clone() } else { std::fs::read_to_string(folder.join(file)).unwrap() };
                assert!(
                    anchors(&page).any(|anchor| anchor == place),
                    "{name} links to `{target}`, a heading that is not there"
                );
            }
        }
    }
}

/// The names under which the headings of a page are linked to.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.map(|heading| {
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    })
}

/// The pages of a folder, by their paths from the root.
fn pages_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(workspace_root().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|page| format!("{folder}/{}", page.file_name().unwrap().to_str().unwrap())).collect()
}

#[test]
fn every_page_is_in_the_list_of_the_readme() {
    let readme = read("README.md");
    for page in pages_in("docs").into_iter().chain(pages_in("docs/walkthroughs")) {
        assert!(readme.contains(&format!("]({page})")), "{page}");
    }
}

/// A section of a page, up to the next one of its level.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {title}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(workspace_root().join(page)).unwrap()
}

#[test]
fn the_first_five_minutes_of_the_readme_go_as_it_says() {
    let readme = read("README.md");
    let steps = commands(section(&readme, "The first five minutes"));
    assert!(steps.len() > 10, "{steps:?}");
    let faults = with_each(|kubectl| faults(&Mesh::down(), kubectl, &steps));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Types what a page shows, with the newest kubectl, in a directory that holds the samples.
fn plays(page: &str) {
    let (mesh, kubectls) = (Mesh::up(), kubectls());
    let kubectl = kubectls.iter().max_by_key(|kubectl| kubectl.minor()).unwrap();
    let samples = mesh.tidegate(&["samples", "."]);
    assert!(samples.status.success(), "{samples:?}");
    let steps = commands(&read(page));
    assert!(steps.len() > 5, "{steps:?}");
    let faults = faults(&mesh, kubectl, &steps);
    assert!(faults.is_empty(), "{page}\n{}", faults.join("\n"));
}

#[test]
fn the_asm_story_goes_as_its_page_says() {
    plays("docs/walkthroughs/asm-tcp.md");
}

#[test]
fn every_symptom_shows_what_the_page_of_troubleshooting_says() {
    plays("docs/troubleshooting.md");
}

//! `kubeconfig` and `env`: what a shell needs to speak to the mesh.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::args::ContextArguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::settings::Place;

/// `kubeconfig`: prints the file.
pub(crate) fn kubeconfig(arguments: &ContextArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    print::out(format_args!("{}", text(&place, arguments.namespace.as_deref())?))
}

/// `env`: prints shell exports.
pub(crate) fn env(arguments: &ContextArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    let namespace = arguments.namespace.as_deref();
    let text = text(&place, namespace)?;
    let kubeconfig =
        place.data_dir.join(namespace.map_or_else(|| "kubeconfig".to_owned(), |name| format!("kubeconfig-{name}")));
    place.write_private(&kubeconfig, &text)?;
    let bin = link_istioctl(&place)?;
    if let Some(real) = other_istioctl(&bin) {
        print::err(format_args!(
            "note: `istioctl` now means Tidegate's; `{}` is shadowed in this shell (call it by its full path)",
            real.display()
        ));
    }
    print::out(format_args!("{}", exports(&kubeconfig, &bin)))
}

/// A kubeconfig of the mesh that was started last here, whether it runs at the moment or not.
fn text(place: &Place, namespace: Option<&str>) -> Result<String, Failure> {
    let no_mesh = |why: String| {
        let what = format!("no mesh in `{}`: {why}; start one: {}", place.data_dir.display(), place.command("up"));
        Failure::says(Exit::Unreachable, what)
    };
    let namespace = namespace.map(legal_namespace).transpose()?;
    let port = crate::mesh::last_port(place).ok_or_else(|| no_mesh("it has never been up".to_owned()))?;
    let access = apiserver::kubeconfig::access(&place.data_dir).map_err(|error| no_mesh(error.to_string()))?;
    Ok(apiserver::kubeconfig::text(&access, (Ipv4Addr::LOCALHOST, port).into(), namespace))
}

fn legal_namespace(name: &str) -> Result<&str, Failure> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
        let what = format!("`{name}` is no namespace name: at most 63 of a-z, 0-9 and `-`");
        return Err(Failure::says(Exit::Usage, what));
    }
    Ok(name)
}

/// Makes `bin/istioctl` in the data directory, a link to this binary.
fn link_istioctl(place: &Place) -> Result<PathBuf> {
    let bin = place.data_dir.join("bin");
    let binary = std::env::current_exe().context("finding this binary")?;
    place.make_folder(&bin, 0o755).with_context(|| format!("making `{}`", bin.display()))?;
    for name in ["istioctl", "tidegate"] {
        let link = bin.join(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == binary) {
            continue;
        }
        let part = bin.join(format!("{name}.part{}", std::process::id()));
        std::os::unix::fs::symlink(&binary, &part).with_context(|| format!("linking `{}`", part.display()))?;
        place.give(&part)?;
        std::fs::rename(&part, &link).with_context(|| format!("linking `{}`", link.display()))?;
    }
    Ok(bin)
}

/// An `istioctl` on the PATH that is not our link.
fn other_istioctl(bin: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder != bin)
        .map(|folder| folder.join("istioctl"))
        .find(|file| file.is_file())
}

fn exports(kubeconfig: &Path, bin: &Path) -> String {
    let kubeconfig = quoted(&kubeconfig.to_string_lossy());
    let bin = quoted(&bin.to_string_lossy());
    format!(
        "export KUBECONFIG={kubeconfig}\n\
         case \":$PATH:\" in *:{bin}:*) ;; *) export PATH={bin}:\"$PATH\" ;; esac\n"
    )
}

/// The word as every POSIX shell reads it: in single quotes, where it needs any.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_survive_hostile_paths_and_repetition() {
        let text = exports(Path::new("/a b/it's/kubeconfig"), Path::new("/x y/bin"));
        let script = format!("PATH=/usr/bin:/bin\n{text}{text}printf '%s|%s' \"$KUBECONFIG\" \"$PATH\"");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "/a b/it's/kubeconfig|/x y/bin:/usr/bin:/bin");
    }

    #[test]
    fn a_namespace_name_is_checked() {
        for name in ["", "Foo", "a/b", "a b", &"x".repeat(64)] {
            assert!(legal_namespace(name).is_err(), "{name}");
        }
    }
}

//! Who runs a program in an image: names and groups as the image's own files say.
//!
//! Read where the container is seen, after its root directory is changed: a link in the image leads to the image.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use linux::userns::Ids;

use super::spec::{Account, ContainerSpec};
use crate::Error;

/// The longest of these files that is read: a directory of thousands of users is no image's.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Groups of a user: what the kernel took of old, and far more than any image has.
const GROUPS_MAX: usize = 256;

/// A user with groups and home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) more_groups: Vec<u32>,
    /// None if nothing says where it is.
    pub(super) home: Option<String>,
}

/// Who runs the program of a container that the caller sees the root directory of. `ids` are those that the caller can name.
pub(super) fn of(spec: &ContainerSpec, ids: &Ids) -> Result<Who, Error> {
    let Some(account) = &spec.account else {
        return Ok(Who { user: spec.user, group: spec.group, more_groups: spec.more_groups.clone(), home: None });
    };
    let failed = |why: String| Error::Container { doing: "find the user of a container".to_owned(), why };
    let users = read(Path::new("/etc/passwd")).map_err(failed)?;
    let groups = read(Path::new("/etc/group")).map_err(failed)?;
    find(account, &users, &groups, ids).map_err(failed)
}

/// One of these files; an image need not have it.
fn read(path: &Path) -> Result<String, String> {
    // A pipe laid there would hold the reader for ever.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return Ok(String::new()) };
    let mut text = Vec::new();
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    if !is_file {
        return Err(format!("`{}` of the image is no file", path.display()));
    }
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| format!("`{}`: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn find(account: &Account, users: &str, groups: &str, ids: &Ids) -> Result<Who, String> {
    let wanted = if account.user.is_empty() { "0" } else { account.user.as_str() };
    // A name that is a number is the number, as container runtimes have it.
    let number = wanted.parse::<u32>().ok();
    let line = lines(users).find(|line| match number {
        Some(number) => line.get(2).and_then(|uid| uid.parse().ok()) == Some(number),
        None => line.first() == Some(&wanted),
    });
    let of = |at: usize| line.as_ref().and_then(|line| line.get(at)).copied();
    let user = number.or_else(|| of(2)?.parse().ok());
    let user = user.ok_or_else(|| format!("the image has no user `{wanted}`: its /etc/passwd does not name it"))?;
    let group = match account.group.as_str() {
        "" => of(3).and_then(|gid| gid.parse().ok()).unwrap_or(0),
        group => group.parse().or_else(|_| numbered(group, groups))?,
    };
    let mut more_groups = account.more_groups.clone();
    if let Some(name) = of(0) {
        let has = |line: &Vec<&str>| line.get(3).is_some_and(|members| members.split(',').any(|member| member == name));
        let own = lines(groups).filter(has).filter_map(|line| line.get(2)?.parse::<u32>().ok());
        // What an image puts a user in is left out where there is no such group: no file belongs to it either.
        more_groups.extend(own.take(GROUPS_MAX).filter(|group| ids.has_further_group(*group)));
    }
    more_groups.sort_unstable();
    more_groups.dedup();
    let home = of(5).filter(|home| !home.is_empty()).map(str::to_owned);
    Ok(Who { user, group, more_groups, home })
}

fn numbered(group: &str, groups: &str) -> Result<u32, String> {
    let line = lines(groups).find(|line| line.first() == Some(&group));
    let number = line.and_then(|line| line.get(2)?.parse().ok());
    number.ok_or_else(|| format!("the image has no group `{group}`: its /etc/group does not name it"))
}

/// The fields of each line.
fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/srv/app:/bin/sh\nbroken\n\nodd:x:many:1:::\n";
    const GROUPS: &str = "root:x:0:\napp:x:1001:\nlog:x:4:syslog,app\nwheel:x:10:root,app\nhalf\n";

    fn found(user: &str, group: &str, more: &[u32]) -> Result<Who, String> {
        find(
            &Account { user: user.into(), group: group.into(), more_groups: more.to_vec() },
            USERS,
            GROUPS,
            &Ids::here(),
        )
    }

    #[test]
    fn names_and_numbers_are_those_of_the_image() {
        let who = |user, group, more: &[u32], home: Option<&str>| {
            Ok(Who { user, group, more_groups: more.to_vec(), home: home.map(str::to_owned) })
        };
        assert_eq!(found("", "", &[]), who(0, 0, &[10], Some("/root")));
        assert_eq!(found("app", "", &[7, 4]), who(1000, 1001, &[4, 7, 10], Some("/srv/app")));
        assert_eq!(found("1000", "log", &[]), who(1000, 4, &[4, 10], Some("/srv/app")));
        assert_eq!(found("4711", "", &[5]), who(4711, 0, &[5], None), "a number need not be in any file");
        assert_eq!(found("4711", "12", &[]), who(4711, 12, &[], None));
        for (user, group) in [("nobody", ""), ("app", "nogroup"), ("odd", ""), ("-1", ""), ("broken", "")] {
            assert!(found(user, group, &[]).unwrap_err().contains("does not name it"), "{user}:{group}");
        }
        assert!(find(&Account::default(), "", "", &Ids::here()).is_ok(), "an image without these files runs as user 0");
    }
}

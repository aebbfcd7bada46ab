//! The file under the store: one table of objects as JSON, one of counters; each commit is on the disk when it returns.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{Change, Event, Key, Object, Objects};
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable as _, StorageBackend as _, StorageError, TableDefinition,
};

use crate::Error;

/// The number of the layout that this program writes and reads.
const FORMAT: u64 = 1;
/// Pages that redb keeps: all objects are in memory anyway, so only the upper levels of the tree matter.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// The open file; nobody else can have it open at the same time.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// None after a failed commit, until it could be opened again.
    database: Option<Database>,
}

impl File {
    /// Opens the file, making it if there is none, and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Objects, u64), Error> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.len() == 0 => return Err(corrupt(path, "it is empty")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(source) => {
                return Err(Error::OpenStore {
                    path: path.to_owned(),
                    source: Box::new(StorageError::Io(source).into()),
                });
            }
        }
        is_ours(path, look(path).unwrap_or(FORMAT))?;
        let database = open(path)?;
        let (objects, revision) = read(path, &database)?;
        Ok((Self { path: path.to_owned(), database: Some(database) }, objects, revision))
    }

    /// Writes the events and the counter in one transaction; returns when they are on the disk.
    pub(super) fn commit(&mut self, events: &[Event], before: u64, revision: u64) -> Result<(), Error> {
        if self.database.is_none() {
            self.reopen(before)?;
        }
        let Some(database) = &self.database else {
            return Err(corrupt(&self.path, "it could not be opened again after a failed write"));
        };
        let written = write(database, events, revision);
        if written.is_err() {
            // redb refuses all further work after an input or output error.
            self.database = None;
        }
        written.map_err(|source| Error::WriteStore { path: self.path.clone(), source: Box::new(source) })
    }

    /// After a failed commit: goes on only if the file holds exactly what the readers were shown.
    fn reopen(&mut self, before: u64) -> Result<(), Error> {
        let database = open(&self.path)?;
        let (_, found) = read(&self.path, &database)?;
        if found != before {
            return Err(Error::AheadStore { path: self.path.clone() });
        }
        self.database = Some(database);
        Ok(())
    }
}

/// Makes the file whole under another name first, so that a file under its own name is never half made.
fn make(path: &Path) -> Result<(), Error> {
    let failed = |source: redb::Error| Error::OpenStore { path: path.to_owned(), source: Box::new(source) };
    let io_failed = |source: io::Error| failed(StorageError::Io(source).into());
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let half = path.with_extension("new");
    crate::files::remove_if_there(&half).map_err(io_failed)?;
    crate::files::create_private(&half).map_err(io_failed)?;
    let database =
        redb::Builder::new().set_cache_size(CACHE_BYTES).create(&half).map_err(|error| failed(error.into()))?;
    write(&database, &[], 0).map_err(failed)?;
    drop(database);
    fs::rename(&half, path).map_err(io_failed)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_failed)
}

/// The format of the file, none if only opening it can tell. Opening writes, if only redb's own notes, and a file that is
/// a newer program's stays as it is.
fn look(path: &Path) -> Option<u64> {
    let look = || match redb::Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path) {
        Ok(database) => format_of(&database),
        // Whoever wrote it was killed, so it is to be repaired first: a copy, in memory, where all objects will be as well.
        Err(DatabaseError::RepairAborted) => {
            let copy = InMemoryBackend::new();
            let bytes = fs::read(path).ok()?;
            copy.set_len(u64::try_from(bytes.len()).ok()?).ok()?;
            copy.write(0, &bytes).ok()?;
            drop(bytes);
            format_of(&redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(copy).ok()?)
        }
        Err(_) => None,
    };
    catch_unwind(AssertUnwindSafe(look)).ok().flatten()
}

fn format_of(database: &impl ReadableDatabase) -> Option<u64> {
    let counters = database.begin_read().ok()?.open_table(COUNTERS).ok()?;
    counters.get("format").ok()?.map(|format| format.value())
}

fn is_ours(path: &Path, found: u64) -> Result<(), Error> {
    if found == FORMAT { Ok(()) } else { Err(Error::NewerStore { path: path.to_owned(), found, known: FORMAT }) }
}

fn open(path: &Path) -> Result<Database, Error> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        redb::Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(Error::LockedStore { path: path.to_owned() })
        }
        Ok(Err(DatabaseError::Storage(StorageError::Corrupted(why)))) => Err(corrupt(path, &why)),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if is_content_error(&error) => {
            Err(corrupt(path, &error.to_string()))
        }
        Ok(Err(error)) => Err(Error::OpenStore { path: path.to_owned(), source: Box::new(error.into()) }),
        Err(_) => Err(corrupt(path, "its pages contradict each other")),
    }
}

fn is_content_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn read(path: &Path, database: &Database) -> Result<(Objects, u64), Error> {
    let failed = |source: redb::Error| match source {
        redb::Error::Corrupted(why) => corrupt(path, &why),
        redb::Error::TableDoesNotExist(table) => corrupt(path, &format!("it has no table `{table}`")),
        source => Error::OpenStore { path: path.to_owned(), source: Box::new(source) },
    };
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    let counters = transaction.open_table(COUNTERS).map_err(|error| failed(error.into()))?;
    let counter = |name: &str| -> Result<u64, Error> {
        let value = counters.get(name).map_err(|error| failed(error.into()))?;
        value.map(|value| value.value()).ok_or_else(|| corrupt(path, &format!("it has no counter `{name}`")))
    };
    is_ours(path, counter("format")?)?;
    let revision = counter("revision")?;
    let table = transaction.open_table(OBJECTS).map_err(|error| failed(error.into()))?;
    let mut objects = Objects::new();
    for entry in table.iter().map_err(|error| failed(error.into()))? {
        let (name, text) = entry.map_err(|error| failed(error.into()))?;
        let bad = || corrupt(path, &format!("its entry `{}` is not an object", name.value()));
        let key = parse_name(name.value()).ok_or_else(bad)?;
        let value = serde_json::from_slice(text.value()).map_err(|_| bad())?;
        let new = Arc::new(Object::new(value).map_err(|_| bad())?);
        objects.apply(&Event { revision: new.revision(), key, change: Change::Put { old: None, new } });
    }
    Ok((objects, revision))
}

fn write(database: &Database, events: &[Event], revision: u64) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // With one phase, whoever opens the file after a kill cannot tell damage to the last commit from a commit that was cut
    // short, and goes back to the one before, though this one was answered.
    transaction.set_two_phase_commit(true);
    {
        let mut counters = transaction.open_table(COUNTERS)?;
        counters.insert("format", FORMAT)?;
        counters.insert("revision", revision)?;
        let mut objects = transaction.open_table(OBJECTS)?;
        for event in events {
            let name = name_of(&event.key);
            match &event.change {
                Change::Put { new, .. } => {
                    let text = serde_json::to_vec(new.value()).map_err(|error| StorageError::Io(error.into()))?;
                    objects.insert(name.as_str(), text.as_slice())?;
                }
                Change::Deleted { .. } => {
                    objects.remove(name.as_str())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn corrupt(path: &Path, why: &str) -> Error {
    Error::CorruptStore { path: path.to_owned(), why: why.to_owned() }
}

/// No part can hold a slash: the router takes no such names.
fn name_of(key: &Key) -> String {
    format!("{}/{}/{}/{}", key.group, key.plural, key.namespace.as_deref().unwrap_or_default(), key.name)
}

fn parse_name(name: &str) -> Option<Key> {
    let mut parts = name.split('/');
    let (group, plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if plural.is_empty() || name.is_empty() || parts.next().is_some() {
        return None;
    }
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty()).map(str::to_owned);
    Some(Key { group: group.to_owned(), plural: plural.to_owned(), namespace, name: name.to_owned() })
}

//! Clients that try to get in all the while: one that may never, one that always may. They connect from inside their pods'
//! namespaces, with the host's own code, so that they live on whatever becomes of the mesh and its processes.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linux::netns::NetNs;

use crate::mesh::Mesh;

/// A refusal comes within a millisecond. A first packet that meets a link that is going is lost, and sent again after a second.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// An answer comes within milliseconds; this only bounds a hang.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Between two rounds of tries: the mesh under test has the same processors.
const PACE: Duration = Duration::from_millis(4);

/// Numbers of addresses after the last one in use that are tried as well: the next pods will get them.
const AHEAD: u32 = 3;

/// The links of a mesh's pods as their pins tell them, with or without a daemon.
#[derive(Debug, Clone)]
pub struct Links {
    folder: PathBuf,
    v4: u32,
    v6: u128,
}

/// The link of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number that its addresses follow from.
    pub number: u32,
    /// The pod.
    pub uid: String,
    pin: PathBuf,
}

impl Links {
    /// The links of a mesh, one pod of which is known with its addresses.
    pub fn of(mesh: &Mesh, uid: &str, v4: &str, v6: &str) -> Self {
        let folder = Path::new("/run/tidegate").join(mesh.id()).join("pods");
        let mut links = Self { folder, v4: 0, v6: 0 };
        let known = links.find(uid).unwrap_or_else(|| panic!("pod {uid} has no link in {:?}", links.all()));
        let v4: Ipv4Addr = v4.parse().unwrap_or_else(|error| panic!("{v4}: {error}"));
        let v6: Ipv6Addr = v6.parse().unwrap_or_else(|error| panic!("{v6}: {error}"));
        links.v4 = v4.to_bits() - known.number;
        links.v6 = v6.to_bits() - u128::from(known.number);
        links
    }

    /// All links that there are now.
    pub fn all(&self) -> Vec<Link> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let link = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.to_owned();
            let (number, uid) = name.split_once('-')?;
            Some(Link { number: number.parse().ok()?, uid: uid.to_owned(), pin: path })
        };
        entries.filter_map(|entry| link(entry.path())).collect()
    }

    /// The link of one pod, if it has one now.
    pub fn find(&self, uid: &str) -> Option<Link> {
        self.all().into_iter().find(|link| link.uid == uid)
    }

    /// Both addresses of a pod.
    pub fn addresses(&self, number: u32) -> [IpAddr; 2] {
        [Ipv4Addr::from_bits(self.v4 + number).into(), Ipv6Addr::from_bits(self.v6 + u128::from(number)).into()]
    }

    /// Runs something inside a pod's namespace; `None` if it has none now.
    pub fn inside<R: Send>(&self, uid: &str, work: impl FnOnce() -> R + Send) -> Option<R> {
        let link = self.find(uid)?;
        // It may go between the look and this.
        NetNs::open(&link.pin).ok()?.run(work).ok()
    }
}

/// What came of the tries.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many there were.
    pub tries: usize,
    /// Those that got through.
    pub through: usize,
    /// What became of the others that a test should know of.
    pub odd: Vec<String>,
}

/// A client that runs; it stops when this is dropped.
#[derive(Debug)]
pub struct Hammer {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hammer {
    fn start(mut round: impl FnMut(&Mutex<Tally>, &AtomicBool) + Send + 'static) -> Self {
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let (into, until) = (Arc::clone(&tally), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                round(&into, &until);
                std::thread::sleep(PACE); // timer: leaves the mesh its processors
            }
        });
        Self { tally, stop, thread: Some(thread) }
    }

    /// A pod that may reach this port of no other pod: it tries every address of the mesh, and those that the next pods will
    /// get. Whatever opens is odd.
    pub fn denied(links: &Links, uid: &str, port: u16) -> Self {
        let (links, uid) = (links.clone(), uid.to_owned());
        Self::start(move |tally, _| {
            let all = links.all();
            let last = all.iter().map(|link| link.number).max().unwrap_or(0);
            let numbers: Vec<u32> = all.iter().filter(|link| link.uid != uid).map(|link| link.number).collect();
            let ahead = (1..=AHEAD).map(|step| last + step);
            let places: Vec<SocketAddr> = numbers
                .into_iter()
                .chain(ahead)
                .flat_map(|number| links.addresses(number))
                .map(|address| (address, port).into())
                .collect();
            let found = links.inside(&uid, || {
                let opens = |place: &SocketAddr| TcpStream::connect_timeout(place, Duration::from_millis(100)).is_ok();
                let opened: Vec<SocketAddr> = places.iter().copied().filter(opens).collect();
                (places.len(), opened)
            });
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let (tries, opened) = found.unwrap_or_default();
            tally.tries += tries;
            tally.through += opened.len();
            tally.odd.extend(opened.iter().map(|place| format!("{place} let it in")));
        })
    }

    /// A pod that may always reach this port of another one: whatever is not answered is odd, and why.
    pub fn permitted(links: &Links, uid: &str, to: &str, port: u16) -> Self {
        let (links, uid, to) = (links.clone(), uid.to_owned(), to.to_owned());
        Self::start(move |tally, stop| {
            let Some(link) = links.find(&to) else { return };
            let own = links.find(&uid);
            let places = links.addresses(link.number).map(|address| SocketAddr::from((address, port)));
            let found = links.inside(&uid, || {
                let mut found = Vec::new();
                for place in places.iter().cycle().take(4) {
                    if !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        found.push(echo(*place).map_err(|why| format!("{place}: {why} after {:?}", begun.elapsed())));
                    }
                }
                found
            });
            if links.find(&uid) != own {
                // A program of the pod would have ended with it, and its namespace leads nowhere any more.
                return;
            }
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            for outcome in found.into_iter().flatten() {
                tally.tries += 1;
                match outcome {
                    Ok(()) => tally.through += 1,
                    Err(why) => tally.odd.push(why),
                }
            }
        })
    }

    /// A pod that keeps one connection to another one and asks on it again and again; that it ends is odd, and a new one is opened.
    pub fn held(links: &Links, uid: &str, to: &str, port: u16) -> Self {
        let (links, uid, to) = (links.clone(), uid.to_owned(), to.to_owned());
        let mut held: Option<(BufReader<TcpStream>, Option<Link>)> = None;
        Self::start(move |tally, _| {
            let own = links.find(&uid);
            if held.is_none() {
                let Some(link) = links.find(&to) else { return };
                let place = SocketAddr::from((links.addresses(link.number)[0], port));
                let opened = links.inside(&uid, || open(place).ok()).flatten();
                held = opened.map(|opened| (opened, own.clone()));
            }
            let Some((open, from)) = &mut held else { return };
            let outcome = ask(open, "held");
            if *from != links.find(&uid) {
                // A program of the pod would have ended with it.
                held = None;
                return;
            }
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.tries += 1;
            match outcome {
                Ok(()) => tally.through += 1,
                Err(why) => {
                    tally.odd.push(why);
                    held = None;
                }
            }
        })
    }

    /// What has come of the tries since this was last asked.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there were so many more tries: what was begun before is told then.
    pub fn until_tried(&self, more: usize) {
        let tries = || self.tally.lock().unwrap_or_else(PoisonError::into_inner).tries;
        let (before, begun) = (tries(), Instant::now());
        while tries() < before + more {
            assert!(begun.elapsed() < Duration::from_secs(30), "the client stands still");
            std::thread::yield_now();
        }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of its own is told where it happened.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Opens a connection.
fn open(place: SocketAddr) -> Result<BufReader<TcpStream>, String> {
    let stream =
        TcpStream::connect_timeout(&place, CONNECT_MAX).map_err(|error| format!("connect: {}", why(&error)))?;
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(|error| error.to_string())?;
    Ok(BufReader::new(stream))
}

/// Whether the other end answers as the echo server does.
fn ask(stream: &mut BufReader<TcpStream>, word: &str) -> Result<(), String> {
    stream.get_mut().write_all(format!("{word}\n").as_bytes()).map_err(|error| format!("write: {}", why(&error)))?;
    let mut answer = String::new();
    match stream.read_line(&mut answer) {
        Ok(_) if answer == format!("hello {word}\n") => Ok(()),
        Ok(_) => Err(format!("answer: {answer:?}")),
        Err(error) => Err(format!("read: {}", why(&error))),
    }
}

/// Opens a connection, asks once and closes it.
pub fn echo(place: SocketAddr) -> Result<(), String> {
    ask(&mut open(place)?, "x")
}

/// That nothing was said is told from what was.
fn why(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".to_owned(),
        kind => kind.to_string(),
    }
}

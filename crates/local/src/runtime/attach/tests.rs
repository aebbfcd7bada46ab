use super::*;

/// A program that its test plays, and whoever is attached to it.
struct Program {
    attachments: Attachments,
    input: io::PipeReader,
}

impl Program {
    fn start(run: &Path, ends_with_client: bool) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        let input = Input::new(writer.into(), false, ends_with_client).unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        Self { attachments: Attachments::open(run, Some(input)), input: reader }
    }

    /// Works until the condition holds.
    fn until(&mut self, mut holds: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(Instant::now() < give_up, "it does not come about");
            let mut polled = Vec::new();
            self.attachments.watch(&mut polled);
            let short = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            rustix::event::poll(&mut polled, Some(&short)).unwrap();
            self.attachments.work();
        }
    }

    fn clients(&mut self, count: usize) {
        self.until(|program| program.attachments.clients.len() == count);
    }

    fn reads(&mut self, wanted: &str) {
        let mut said = Vec::new();
        self.until(|program| {
            drop(program.input.read_to_end(&mut said));
            said == wanted.as_bytes()
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_goes_both_ways_to_everybody_who_is_attached() {
    // Longer than the name of a socket may be.
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("x".repeat(120));
    std::fs::create_dir(&run).unwrap();
    let mut program = Program::start(&run, false);
    let mut one = attach(&run, true).await.unwrap();
    let mut other = attach(&run, false).await.unwrap();
    let (one_ends, other_ends) = (tokio::spawn(one.end), tokio::spawn(other.end));
    let mut program = tokio::task::spawn_blocking(move || {
        program.clients(2);
        program.attachments.tell(OUTPUT, b"out");
        program.attachments.tell(ERRORS, b"err");
        program
    })
    .await
    .unwrap();
    for (stdout, stderr) in [(&mut one.stdout, &mut one.stderr), (&mut other.stdout, &mut other.stderr)] {
        let mut said = [0; 3];
        stdout.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"out");
        stderr.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"err");
    }
    let mut stdin = one.stdin.take().unwrap();
    stdin.write_all(b"in").await.unwrap();
    // The end of a client's input is not that of the program's, which others may attach to.
    stdin.shutdown().await.unwrap();
    one.resize.send((80, 24)).await.unwrap();
    tokio::task::spawn_blocking(move || {
        program.reads("in");
        assert!(program.attachments.input.is_some());
        program.attachments.finish();
    })
    .await
    .unwrap();
    one_ends.await.unwrap();
    other_ends.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_for_one_client_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Program::start(directory.path(), true);
    let mut only = attach(directory.path(), true).await.unwrap();
    only.stdin.as_mut().unwrap().write_all(b"x").await.unwrap();
    let ends = tokio::spawn(only.end);
    let mut program = tokio::task::spawn_blocking(move || {
        program.reads("x");
        program
    })
    .await
    .unwrap();
    // It leaves without a word.
    ends.abort();
    tokio::task::spawn_blocking(move || program.until(|program| program.attachments.input.is_none())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_waited_for_and_the_output_stays_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Program::start(directory.path(), false);
    let idle = attach(directory.path(), false).await.unwrap();
    tokio::task::spawn_blocking(move || {
        program.clients(1);
        let mut told = 0;
        while !program.attachments.is_full() {
            program.attachments.tell(OUTPUT, &[b'x'; 16 * 1024]);
            told += 1;
            assert!(told < 10_000, "nothing is ever full");
        }
        let waiting = program.attachments.clients[0].waiting.len();
        assert!(waiting < WAITING_BYTES_MAX + 32 * 1024, "{waiting}");
        // Once it has been full for too long the client is left behind.
        let since = Instant::now().checked_sub(STUCK_BOUND).unwrap();
        program.attachments.clients[0].since_full = Some(since);
        program.clients(0);
    })
    .await
    .unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_last_words_arrive_although_input_is_on_its_way_to_a_program_that_has_ended() {
    // Either of the two may be looked at first.
    for _ in 0..50 {
        let directory = tempfile::tempdir().unwrap();
        let mut attachments = Attachments::open(directory.path(), None);
        let mut client = attach(directory.path(), true).await.unwrap();
        attachments.work();
        attachments.tell(OUTPUT, b"ha");
        attachments.finish();
        client.stdin.as_mut().unwrap().write_all(b"more").await.unwrap();
        client.end.await;
        let mut said = Vec::new();
        client.stdout.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"ha");
    }
}

use super::{DATA_PIECE_BYTES, Frame, FrameReader, FrameWriter, data, dictionary, ping};

/// The checksum by which zlib names a dictionary: RFC 1950.
fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

#[test]
fn the_dictionary_is_that_of_the_specification() {
    assert_eq!((dictionary().len(), adler32(&dictionary())), (1423, 0xe3c6_a7c2));
}

async fn frames(bytes: &[u8]) -> std::io::Result<Vec<Frame>> {
    let mut reader = FrameReader::over(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    Ok(frames)
}

#[tokio::test]
async fn what_is_written_is_read_with_one_state_for_all_header_blocks() {
    let mut writer = FrameWriter::start().unwrap();
    let mut bytes = Vec::new();
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        bytes.extend(writer.open(stream, &[("streamtype", kind), ("X-Other", "")]).unwrap());
    }
    bytes.extend(writer.reply(1).unwrap());
    bytes.extend(ping(7));
    bytes.extend(data(3, b"hello", false));
    bytes.extend(data(3, b"", true));
    let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned()), ("x-other".to_owned(), String::new())];
    let expected = vec![
        Frame::Open { stream: 1, headers: headers("error"), fin: false },
        Frame::Open { stream: 3, headers: headers("stdin"), fin: false },
        Frame::Open { stream: 5, headers: headers("stdout"), fin: false },
        Frame::Ignored,
        Frame::Ping { id: 7 },
        Frame::Data { stream: 3, bytes: "hello".into(), fin: false },
        Frame::Data { stream: 3, bytes: "".into(), fin: true },
    ];
    assert_eq!(frames(&bytes).await.unwrap(), expected);
}

#[tokio::test]
async fn long_data_comes_in_pieces_and_only_the_last_ends_the_stream() {
    let long = vec![b'x'; DATA_PIECE_BYTES * 2 + 1];
    let read = frames(&data(1, &long, true)).await.unwrap();
    let pieces: Vec<(usize, bool)> = read
        .iter()
        .map(|frame| match frame {
            Frame::Data { bytes, fin, .. } => (bytes.len(), *fin),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces, [(DATA_PIECE_BYTES, false), (DATA_PIECE_BYTES, false), (1, true)]);
}

#[tokio::test]
async fn hostile_frames_are_errors_and_cost_little() {
    let block = |plain: &[u8]| {
        let mut deflate = flate2::Compress::new(flate2::Compression::best(), true);
        deflate.set_dictionary(&dictionary()).unwrap();
        let mut block = Vec::with_capacity(plain.len() + 1024);
        deflate.compress_vec(plain, &mut block, flate2::FlushCompress::Sync).unwrap();
        let mut frame = [0x80, 3, 0, 1, 0].to_vec();
        frame.extend(&u32::try_from(block.len() + 10).unwrap().to_be_bytes()[1..]);
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(block);
        frame
    };
    let many = [&1000_u32.to_be_bytes()[..], &[0; 8000]].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("cut head", vec![0x80, 3, 0]),
        ("other version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("long control frame", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("short control frame", vec![0x80, 3, 0, 6, 0, 0, 0, 1, 0]),
        ("no zlib", vec![0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ("cut data", vec![0, 0, 0, 1, 0, 0, 0, 9, b'x']),
        ("bomb", block(&vec![0; 1 << 20])),
        ("many headers", block(&many)),
        ("header longer than its block", block(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])),
    ];
    for (name, bytes) in cases {
        assert!(frames(&bytes).await.is_err(), "{name}");
    }
}

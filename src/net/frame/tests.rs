use proptest::prelude::*;

use super::*;

/// Feeds `stream` in pieces, through [`FrameDecoder::space`] where it is offered.
fn decode_in_pieces(stream: &[u8], pieces: &[usize]) -> Result<Vec<Bytes>, FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut bodies = Vec::new();
    let mut rest = stream;
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
        let (mut input, behind) = rest.split_at(size);
        if let Some(space) = decoder.space() {
            let read = size.min(space.len());
            space[..read].copy_from_slice(&rest[..read]);
            decoder.advance(read);
            rest = &rest[read..];
            input = &[];
        } else {
            rest = behind;
        }
        while let Some(body) = decoder.decode(&mut input)? {
            bodies.push(body);
        }
        assert!(input.is_empty(), "all input is taken");
    }
    Ok(bodies)
}

fn frame_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = header(body.len()).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn a_header_is_that_of_the_captured_frames() {
    // From a PUT of 114 bytes and its answer of 69.
    let put = [
        0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x6a, 0x7b, 0, 0, 0, 0x72, 0x36, 0x7b, 0xbf, 0xd3,
    ];
    let answer = [
        0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x6a, 0x7b, 0, 0, 0, 0x45, 0x5b, 0x87, 0x7f, 0xcb,
    ];
    assert_eq!(header(98), put);
    assert_eq!(header(53), answer);
    assert_eq!(parse_header(&put), Ok(98));
    assert_eq!(parse_header(&answer), Ok(53));
}

#[test]
fn a_bad_header_is_refused_after_its_16_bytes() {
    let with = |at: usize, bytes: &[u8]| {
        let mut header = header(10);
        header[at..][..bytes.len()].copy_from_slice(bytes);
        parse_header(&header).unwrap_err()
    };
    assert_eq!(with(0, &[0xff]), FrameError::Magic(0xff1b_2c3d_4e5f_6a7b));
    assert_eq!(with(8, &[0, 0, 0, 15]), FrameError::Length(15));
    assert_eq!(with(8, &[0xff; 4]), FrameError::Length(u32::MAX));
    let just_too_long = (FRAME_BYTES_MAX + 1) as u32;
    assert_eq!(
        with(8, &just_too_long.to_be_bytes()),
        FrameError::Length(just_too_long)
    );
    let error = with(12, &[0; 4]);
    assert!(matches!(
        error,
        FrameError::HeaderChecksum { received: 0, .. }
    ));
}

#[test]
fn an_empty_body_is_a_frame() {
    let bodies = decode_in_pieces(&frame_of(&[]), &[]).unwrap();
    assert_eq!(bodies, [Bytes::new()]);
}

#[test]
fn a_frame_of_the_longest_length_is_one_and_takes_only_the_room_of_what_has_come() {
    let longest = FRAME_BYTES_MAX - HEADER_BYTES;
    let mut decoder = FrameDecoder::default();
    let header = header(longest);
    assert_eq!(decoder.decode(&mut &header[..]), Ok(None));
    let mut received = 0;
    while received < longest {
        let Some(space) = decoder.space() else {
            let rest = vec![7; longest - received];
            let body = decoder.decode(&mut &rest[..]).unwrap();
            assert_eq!(body.map(|body| body.len()), Some(longest));
            return;
        };
        space[0] = 7;
        // A slow sender: a little of what there is space for.
        let read = space.len().min(60_001);
        decoder.advance(read);
        received += read;
        let body = decoder.body.as_ref().unwrap();
        assert!(body.capacity <= 2 * (received + DIRECT_BYTES_MIN));
    }
    let body = decoder.decode(&mut &[][..]).unwrap();
    assert_eq!(body.map(|body| body.len()), Some(longest));
}

#[test]
fn a_decoder_knows_whether_the_stream_ends_within_a_frame() {
    let frame = frame_of(b"body");
    for cut in 1..frame.len() {
        let mut decoder = FrameDecoder::default();
        assert_eq!(decoder.decode(&mut &frame[..cut]), Ok(None));
        assert!(decoder.is_within_frame(), "cut at {cut}");
        let body = decoder.decode(&mut &frame[cut..]).unwrap();
        assert_eq!(body.as_deref(), Some(&b"body"[..]));
        assert!(!decoder.is_within_frame());
    }
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let len = prop_oneof![4 => 0..200_usize, 1 => 10_000..150_000_usize];
    let body = (len, any::<u8>())
        .prop_map(|(len, seed)| (0..len).map(|i| (i as u8) ^ seed).collect::<Vec<u8>>());
    prop::collection::vec(body, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_of_the_stream_into_reads_gives_the_same_frames(
        bodies in bodies(),
        pieces in prop::collection::vec(prop_oneof![1..40_usize, 1_000..80_000_usize], 1..12),
    ) {
        let stream: Vec<u8> = bodies.iter().flat_map(|body| frame_of(body)).collect();
        let decoded = decode_in_pieces(&stream, &pieces).unwrap();
        prop_assert_eq!(decoded, bodies);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        good_first in any::<bool>(),
        pieces in prop::collection::vec(1..30_usize, 1..5),
    ) {
        let mut stream = if good_first { frame_of(b"good") } else { Vec::new() };
        stream.extend_from_slice(&bytes);
        let _ = decode_in_pieces(&stream, &pieces);
    }

    #[test]
    fn one_flipped_bit_of_a_header_is_always_found(bit in 0..128_usize, body_bytes in 0..1_000_usize) {
        let mut header = header(body_bytes);
        header[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(parse_header(&header).is_err());
    }
}

#[test]
fn a_checksum_is_the_crc_of_magic_and_length() {
    for total in [
        16,
        17,
        255,
        256,
        0x1_0000,
        0xABCDEF,
        FRAME_BYTES_MAX as u32,
        u32::MAX,
    ] {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend_from_slice(&total.to_le_bytes());
        assert_eq!(checksum(total), crc32fast::hash(&bytes), "{total}");
    }
}

#[test]
fn a_body_is_copied_only_if_it_came_in_parts() {
    let frame = frame_of(b"body");
    let mut decoder = FrameDecoder::default();
    let mut input = &frame[..];
    let body = decoder.next_body(&mut input).unwrap();
    assert_eq!(body, Some(Body::Borrowed(&frame[HEADER_BYTES..])));
    let (mut first, mut second) = frame.split_at(HEADER_BYTES + 1);
    assert_eq!(decoder.next_body(&mut first), Ok(None));
    let body = decoder.next_body(&mut second).unwrap();
    assert_eq!(body, Some(Body::Gathered(Bytes::from_static(b"body"))));
}

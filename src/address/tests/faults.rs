//! Texts that are no address, and where their fault is.

use super::*;

fn fault(text: &[u8]) -> Error {
    parse(text).map(|spec| spec.address).expect_err(&text.escape_ascii().to_string())
}

/// A text of a list, and the column of its fault.
const BAD_LISTS: [(&str, usize); 12] = [
    ("", 0),
    (",", 0),
    ("9000,", 5),
    (",9000", 0),
    ("9000,,9001", 5),
    ("-", 1),
    ("9000,-", 6),
    ("9000,-,9001", 6),
    ("9000, 9001", 5),
    ("--9000", 1),
    ("9000,[::1]:9000,127.0.0.1:99999", 26),
    ("9000?backlog=5,9001?backlog=", 28),
];

#[test]
fn a_fault_in_a_list_stands_in_the_whole_list() {
    for (text, column) in BAD_LISTS {
        let error = list(text.as_bytes()).map(drop).expect_err(text);
        check(text.as_bytes(), &error);
        assert_eq!(caret(&error), column, "{}", error.hint_text());
        assert_eq!(error.hint_text().lines().next(), Some(text));
    }
    let error = list(b"9000,127.0.0.1:x").map(drop).unwrap_err();
    assert_eq!(error.address(), "127.0.0.1:x", "the message names the one address");
}

/// A text, and the column of its fault.
const BAD: [(&str, usize); 134] = [
    // Ports.
    ("", 0),
    ("65536", 0),
    ("70000000000", 0),
    ("99999999999999999999999999", 0),
    ("08080", 0),
    ("00", 0),
    (" 80", 0),
    ("+80", 0),
    ("-1", 0),
    ("80 ", 2),
    ("80a", 2),
    ("0x50", 1),
    ("8\t0", 1),
    ("8\n", 1),
    ("80\0", 2),
    ("http", 4),
    ("localhost", 9),
    ("*", 1),
    (":", 1),
    ("*:", 2),
    (":http", 1),
    ("*:http", 2),
    (":-1", 1),
    (":+80", 1),
    (":080", 1),
    (":65536", 1),
    ("127.0.0.1:65536", 10),
    ("127.0.0.1:", 10),
    ("127.0.0.1:http", 10),
    ("127.0.0.1:8 0", 11),
    ("127.0.0.1:0x50", 11),
    ("127.0.0.1:-1", 10),
    ("127.0.0.1:80:90", 12),
    ("localhost:", 10),
    ("localhost:080", 10),
    ("localhost:65536", 10),
    ("localhost:80:90", 12),
    ("localhost:80a", 12),
    // IPv4.
    ("127.0.0.1", 9),
    ("127.0.0.1 ", 9),
    (" 127.0.0.1:80", 0),
    ("127.0.0.1 :80", 9),
    ("1:80", 1),
    ("127.1:80", 5),
    ("1.2.3:80", 5),
    ("010.0.0.1:80", 0),
    ("1.02.3.4:80", 2),
    ("0x7f.1:80", 1),
    ("0x7f000001:80", 1),
    ("0X7F:80", 1),
    ("0x:80", 1),
    ("1.2.3.0x4:80", 7),
    ("2130706433:80", 0),
    ("256.0.0.1:80", 0),
    ("1.2.3.400:80", 6),
    ("1.2.3.4.5:80", 8),
    ("1..2.3:80", 2),
    (".1.2.3:80", 0),
    ("1.2.3.4.:80", 8),
    ("127.0.0.1%lo:9", 9),
    ("foo.1:80", 0),
    // IPv6.
    ("::1:9000", 0),
    ("::", 0),
    ("::1", 0),
    ("fe80::1%eth0:9000", 0),
    ("::ffff:1.2.3.4:80", 0),
    ("[", 1),
    ("[::1", 4),
    ("[::1]", 5),
    ("[::1]:", 6),
    ("[::1]9000", 5),
    ("[::1]:http", 6),
    ("[::1]:080", 6),
    ("[::1]:80:90", 8),
    ("[::1]]:80", 5),
    ("[[::1]]:80", 1),
    ("[]:80", 1),
    ("[localhost]:80", 1),
    ("[::g]:80", 3),
    ("[1:2]:80", 1),
    ("[1::2::3]:80", 1),
    ("[:::]:80", 1),
    ("[::12345]:80", 1),
    ("[::1 ]:80", 4),
    ("[127.0.0.1]:80", 1),
    ("[::ffff:1.2.3.4]:80", 1),
    ("[::ffff:102:304]:80", 1),
    ("[::1.2.3.04]:80", 1),
    ("[::1%lo]:9", 4),
    ("[::1%1]:9", 4),
    ("[2001:db8::1%eth0]:9", 12),
    ("[fe80::1]:9", 8),
    ("[febf::1]:9", 8),
    ("[fe80::1%]:9", 9),
    ("[fe80::1%a/b]:9", 10),
    ("[fe80::1%a b]:9", 10),
    ("[fe80::1%a%b]:9", 10),
    ("[fe80::1%a:b]:9", 10),
    ("[fe80::1%sixteen_letters_]:9", 24),
    ("[fe80::1%0]:9", 9),
    ("[fe80::1%03]:9", 9),
    ("[fe80::1%4294967296]:9", 9),
    ("[fe80::1%eth0]", 14),
    // Names.
    ("-host:80", 0),
    ("ho st:80", 2),
    ("host..com:80", 5),
    (".host:80", 0),
    (".:80", 0),
    ("host.com..:80", 9),
    ("a.-b:80", 2),
    ("h\u{e9}:80", 1),
    ("host/x:80", 4),
    ("user@host:80", 4),
    ("**:80", 0),
    ("host:-x", 5),
    ("host:a_b", 6),
    ("host:sixteenletters-x", 20),
    // Schemes.
    ("tcp:127.0.0.1:80", 0),
    ("tcp:80", 0),
    ("TCP:80", 0),
    ("http://localhost:80", 0),
    ("foo:[::1]:80", 0),
    ("UNIX:/run/x", 0),
    ("Fd:3", 0),
    ("/run/x", 0),
    ("@name", 0),
    ("udp:", 4),
    ("udp:unix:/x", 4),
    ("udp:fd:3", 4),
    ("udp:udp:53", 4),
    ("udp:systemd:", 4),
    ("udp4:53", 0),
    ("9000,9001", 4),
    ("-9000", 0),
];

/// The same for what is not IP, and for settings.
const BAD_OTHERS: [(&str, usize); 36] = [
    ("unix:", 5),
    ("unix:?unix_mode=0660", 5),
    ("unix:@", 6),
    ("unix:/a\0b", 7),
    ("unix:@a\0b", 7),
    ("unix:/a,b", 7),
    ("fd:", 3),
    ("fd:-1", 3),
    ("fd:+1", 3),
    ("fd:03", 3),
    ("fd:3x", 4),
    ("fd: 3", 3),
    ("fd:2147483648", 3),
    ("fd:4294967296", 3),
    ("systemd:a:b", 9),
    ("systemd:a\nb", 9),
    ("systemd:\u{e9}", 8),
    ("9000?", 5),
    ("9000?backlog", 12),
    ("9000?backlog=", 13),
    ("9000?=5", 5),
    ("9000?&", 5),
    ("9000?backlog=5&", 15),
    ("9000?&backlog=5", 5),
    ("9000?a=5&&b=6", 9),
    ("9000?Backlog=5", 5),
    ("9000?back-log=5", 9),
    ("9000?backlog =5", 12),
    ("9000??backlog=5", 5),
    ("9000?backlog=5?a=6", 14),
    ("9000?a=1&b=2&a=3", 13),
    ("9000?a=1\n", 8),
    ("9000?a=\0", 7),
    ("9000?a=\u{7f}", 7),
    ("?backlog=5", 0),
    ("localhost?backlog=5", 9),
];

#[test]
fn every_fault_is_shown_in_its_place() {
    for (text, column) in BAD.into_iter().chain(BAD_OTHERS) {
        let error = fault(text.as_bytes());
        check(text.as_bytes(), &error);
        assert_eq!(caret(&error), column, "{error}\n{}", error.hint_text());
    }
}

#[test]
fn an_endpoint_that_is_wrong_is_wrong_for_udp_as_well() {
    // A dash, a comma and a second scheme are faults of another kind in front.
    let is_endpoint = |text: &str| !text.starts_with('-') && !text.contains(',') && !text.starts_with("udp:");
    for (text, column) in BAD.into_iter().filter(|(text, _)| is_endpoint(text)) {
        let text = format!("udp:{text}");
        assert_eq!(caret(&fault(text.as_bytes())), column + 4, "{text}");
    }
}

#[test]
fn what_is_too_long_is_told_with_its_length() {
    let label = "a".repeat(63);
    for (text, length, column) in [
        (format!("unix:/{}", "p".repeat(107)), "path has 108 bytes, and 107", 5 + 107),
        (format!("unix:@{}", "p".repeat(108)), "abstract name has 108 bytes, and 107", 6 + 107),
        (format!("systemd:{}", "p".repeat(256)), "name has 256 bytes, and 255", 0),
        (format!("{}:80", "a".repeat(64)), "label has 64 bytes, and 63", 63),
        (format!("{label}.{label}.{label}.{}:80", "a".repeat(62)), "host name has 254 bytes, and 253", 0),
    ] {
        let error = fault(text.as_bytes());
        check(text.as_bytes(), &error);
        assert!(error.to_string().contains(length), "{error}");
        assert!(column == 0 || caret(&error) == column, "{}", error.hint_text());
    }
}

#[test]
fn bytes_that_are_no_text_are_faults_in_their_place() {
    for (text, column) in [
        (&b"\xff"[..], 0),
        (b"80\xff", 2),
        (b"\xc3:80", 0),
        (b"host:\xff", 5),
        (b"fd:\xff", 3),
        (b"9000?a=b\xff", 8),
        (b"unix:\xff\x01?a", 5 + 4 + 5 + 2),
        (b"unix:\xe6\x97\xa5\xc3\xa9?a", 5 + 8 + 1 + 2),
    ] {
        let error = fault(text);
        check(text, &error);
        assert_eq!(caret(&error), column, "{}", error.hint_text());
    }
}

#[test]
fn ten_megabytes_are_refused_unread() {
    for byte in [b'1', b':', b',', b'-', b'&', b'\0', 0xff] {
        let text = vec![byte; 10 << 20];
        let single = parse(&text).map(drop).unwrap_err();
        let several = list(&text).map(drop).unwrap_err();
        for error in [single, several] {
            check(&text, &error);
            assert!(error.to_string().ends_with("the text has 10485760 bytes, and 4096 are the most"), "{error}");
        }
    }
    let longest = format!("9000?a={}", "x".repeat(4096 - 7));
    assert!(parse(longest.as_bytes()).is_ok());
    assert!(parse(format!("{longest}x").as_bytes()).is_err());
}

//! What host sets mean, by example.

use std::path::{Path, PathBuf};

use super::error::{Problem, Source};
use super::groups::{Groups, GroupsError};
use super::select::{SelectError, Selection, read_groups};
use super::*;

fn groups() -> Groups {
    let text = "# the farm\nweb: web[01-03]\ndb:db[1-11]!db10\nprod: @web @db\n      ! @broken # not now\n\nbroken: web02\nrack1: a\nrack2: b\n";
    Groups::parse(text, Path::new("groups")).unwrap()
}

fn names(text: &str) -> Vec<String> {
    let set = evaluate(text, Source::Argument, &groups()).unwrap_or_else(|e| panic!("{text}: {e}"));
    set.iter().map(|host| host.name().to_owned()).collect()
}

fn folded(text: &str) -> String {
    fold(evaluate(text, Source::Argument, &groups()).unwrap_or_else(|e| panic!("{text}: {e}")).iter())
}

/// The message, and the part of the text it points at.
fn fault(text: &str) -> (String, String) {
    let error = evaluate(text, Source::Argument, &groups()).expect_err(text);
    (error.to_string(), error.place.text[error.place.span.clone()].to_owned())
}

#[test]
fn ranges_expand() {
    let cases: &[(&str, &[&str])] = &[
        ("web3", &["web3"]),
        ("web[1-3]", &["web1", "web2", "web3"]),
        ("web[08-11]", &["web08", "web09", "web10", "web11"]),
        ("web[098-101]", &["web098", "web099", "web100", "web101"]),
        ("web[08-10,2]", &["web2", "web08", "web09", "web10"]),
        ("n[0-8/4]", &["n0", "n4", "n8"]),
        ("n[0-7/4]", &["n0", "n4"]),
        ("n[01-05/2]", &["n01", "n03", "n05"]),
        ("r[1-2]s[1-2].lan", &["r1s1.lan", "r1s2.lan", "r2s1.lan", "r2s2.lan"]),
        ("n0[1-2]", &["n01", "n02"]),
        ("[1-2].lan", &["1.lan", "2.lan"]),
        ("n[1, 3]", &["n1", "n3"]),
        ("n[1,1-2]", &["n1", "n2"]),
        ("n1,n01", &["n01", "n1"]),
        ("deploy@web[1-2]", &["deploy@web1", "deploy@web2"]),
        ("n[999999999999999999]", &["n999999999999999999"]),
        ("@rack[1-2]", &["a", "b"]),
    ];
    for (text, expected) in cases {
        assert_eq!(names(text), *expected, "{text}");
    }
}

#[test]
fn operators_apply_from_left_to_right() {
    let cases: &[(&str, &[&str])] = &[
        ("a,b c\td", &["a", "b", "c", "d"]),
        ("n[1-5]!n[2-3]", &["n1", "n4", "n5"]),
        ("n[1-5]&n[4-9]", &["n4", "n5"]),
        ("n[1-3]^n[3-4]", &["n1", "n2", "n4"]),
        ("n1,n2!n1,n1", &["n1", "n2"]),
        ("a,b&b", &["b"]),
        ("a,(b&c)", &["a"]),
        ("n[1-4] ! ( n1 , n2 )", &["n3", "n4"]),
        ("@web!web02", &["web01", "web03"]),
        ("@prod&@web", &["web01", "web03"]),
        ("@prod!@db", &["web01", "web03"]),
        ("a!a", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(names(text), *expected, "{text}");
    }
}

#[test]
fn full_specifications_stay_whole() {
    let cases: &[(&str, &[&str])] = &[
        ("ssh://u@h:22?chdir=/srv&nice=5!,b", &["b", "ssh://u@h:22?chdir=/srv&nice=5!"]),
        ("ssh://u@w[1-2]:22?x=[1-2]", &["ssh://u@w1:22?x=[1-2]", "ssh://u@w2:22?x=[1-2]"]),
        ("docker://db docker://web", &["docker://db", "docker://web"]),
        ("docker://a ! docker://a", &[]),
        ("(ssh://h?a=(1)", &[]),
        ("ssh://[::1]:22", &["ssh://[::1]:22"]),
        ("[fe80::1]:22,::1", &["::1", "[fe80::1]:22"]),
    ];
    for (text, expected) in cases {
        if *text == "(ssh://h?a=(1)" {
            assert_eq!(names(text), ["ssh://h?a=(1"], "in parentheses the first ')' closes them");
        } else {
            assert_eq!(names(text), *expected, "{text}");
        }
    }
}

#[test]
fn copies_are_separate_workers_of_one_place() {
    assert_eq!(names("4*local"), ["local#1", "local#2", "local#3", "local#4"]);
    assert_eq!(names("local,1*local"), ["local"]);
    assert_eq!(names("2*n[1-2]"), ["n1#1", "n1#2", "n2#1", "n2#2"]);
    assert_eq!(names("4*local!local#[2-3]"), ["local#1", "local#4"]);
    let copy = Host::new("ssh://h?a=b#12");
    assert_eq!((copy.name(), copy.spec()), ("ssh://h?a=b#12", "ssh://h?a=b"));
    for plain in ["local", "a#", "a#b", "a#1b"] {
        assert_eq!(Host::new(plain).spec(), plain);
    }
}

#[test]
fn folding_is_short_and_reads_back() {
    let cases = [
        ("db1,db2,db3,db4,db5,db6,db7,db8,db9,db11", "db[1-9,11]"),
        ("web[01-20]", "web[01-20]"),
        ("web[01-05,10-20]", "web[01-05,10-20]"),
        ("n[098-101]", "n[098-101]"),
        ("n[1-2],n[01-02]", "n[1-2,01-02]"),
        ("n[08-12],n[8-9]", "n[8-9,08-12]"),
        ("n0,n00,n1", "n[0-1,00]"),
        ("a", "a"),
        ("b,a", "a,b"),
        ("n5,a[1-2],n4,zoo", "a[1-2],n[4-5],zoo"),
        ("r[1-2]s[01-03]", "r[1-2]s[01-03]"),
        ("r1s1,r1s2,r2s1", "r1s[1-2],r2s1"),
        ("r[1-3]s[1-4]!r2s2", "r[1,3]s[1-4],r2s[1,3-4]"),
        ("10.0.[0-1].[1-3]", "10.0.[0-1].[1-3]"),
        ("4*local", "local#[1-4]"),
        ("ssh://u@h[1-2]:22?a=1", "ssh://u@h[1-2]:22?a=1"),
        ("ssh://u@h:22?a=1,ssh://u@h:22?a=2", "ssh://u@h:22?a=1,ssh://u@h:22?a=2"),
        ("ssh://[fe80::1]:1,ssh://[fe80::2]:1", "ssh://[fe80::1]:1,ssh://[fe80::2]:1"),
        ("n9999999999999999999,n9999999999999999998", "n9999999999999999998,n9999999999999999999"),
        ("n[1-10/3]", "n[1,4,7,10]"),
        ("@prod", "db[1-9,11],web[01,03]"),
    ];
    for (text, expected) in cases {
        let short = folded(text);
        assert_eq!(short, expected, "{text}");
        assert_eq!(names(&short), names(text), "{short} reads back as {text}");
    }
    assert_eq!(fold([]), "");
}

#[test]
fn folding_reads_back_whatever_the_set() {
    // A small generator of its own: the sets are dense enough to form ranges, and mixed in width and dimension.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..300 {
        let set: HostSet = (0..next(60))
            .map(|_| {
                let (x, y, width) = (next(14), next(14), next(3) as usize + 1);
                Host::new(match next(4) {
                    0 => format!("n{x:0width$}"),
                    1 => format!("r{x}s{y:0width$}"),
                    2 => format!("{x:0width$}.lan"),
                    _ => format!("r{x:02}-{y}-{}", next(3)),
                })
            })
            .collect();
        let text = fold(set.iter());
        if set.is_empty() {
            continue;
        }
        let again = evaluate(&text, Source::Argument, &Groups::default()).unwrap();
        assert_eq!(again, set, "round {round}: {text}");
    }
}

#[test]
fn a_large_set_folds() {
    let set = evaluate("r[1-100]s[001-999]", Source::Argument, &Groups::default()).unwrap();
    assert_eq!(set.len(), 99_900);
    assert_eq!(fold(set.iter()), "r[1-100]s[001-999]");
}

#[test]
fn errors_say_where_and_what_to_write() {
    let cases = [
        ("", "the host set is empty: write names such as web[01-20] or @group", ""),
        (" \t", "the host set is empty: write names such as web[01-20] or @group", ""),
        (",a", "nothing stands before ',': a host set must start with hosts", ","),
        ("a,", "nothing stands after ',': write the hosts it applies to, or take it away", ","),
        ("a,!b", "nothing stands after ',': write the hosts it applies to, or take it away", ","),
        ("a!&b", "nothing stands after '!': write the hosts it applies to, or take it away", "!"),
        ("web[1-3", "the bracket '[' is never closed: write ']' after the ranges", "["),
        ("web1-3]", "this ']' closes no bracket: take it away, or write '[' before the ranges", "]"),
        ("(a,b", "the parenthesis '(' is never closed: write ')' after the hosts", "("),
        ("a)", "this ')' closes no parenthesis: take it away", ")"),
        ("web[]", "an empty range: write numbers such as 1-20 or 3,5", ""),
        ("web[1,,2]", "an empty range: write numbers such as 1-20 or 3,5", ""),
        ("web[a-c]", "'a-c' is not a range: write numbers such as 7, 01-20 or 0-8/2", "a-c"),
        ("web[1-2,3/2]", "'3/2' is not a range: write numbers such as 7, 01-20 or 0-8/2", "3/2"),
        ("web[1-2-3]", "'1-2-3' is not a range: write numbers such as 7, 01-20 or 0-8/2", "1-2-3"),
        ("x,web[20-01]", "the range runs backwards: write 01-20", "20-01"),
        ("web[1-9/0]", "a step of 0 never arrives: write 1 or more", "1-9/0"),
        ("web[1-020]", "the ends are padded to different widths: write 001-020", "1-020"),
        ("n[1-9999999999999999999]", "the number has too many digits: at most 18", "1-9999999999999999999"),
        ("a[1-999999999]", "more than 100000 hosts: narrow the ranges", "a[1-999999999]"),
        ("a[1-999]b[1-999]c[1-999]", "more than 100000 hosts: narrow the ranges", "a[1-999]b[1-999]c[1-999]"),
        ("a[1-90000],b[1-20000]", "more than 100000 hosts: narrow the ranges", "a[1-90000],b[1-20000]"),
        ("999999*local", "more than 100000 hosts: narrow the ranges", "999999*"),
        ("50000*n[1-3]", "more than 100000 hosts: narrow the ranges", "50000*n[1-3]"),
        ("0*local", "no copies asked for: write 1*local or more", "0*"),
        ("3*", "nothing stands after '*': write the hosts it applies to, or take it away", "3*"),
        ("web*", "'*' is no wildcard here: 4*local makes four workers, @* is every group", "*"),
        ("web[1..3]", "'..' is no range here: write brackets and a dash, such as web[1-20]", ".."),
        ("web{1..3}", "'..' is no range here: write brackets and a dash, such as web[1-20]", "{"),
        ("-oProxyCommand=x", "a host name cannot begin with '-'", "-oProxyCommand=x"),
        ("u@-oProxyCommand", "a host name cannot begin with '-'", "u@-oProxyCommand"),
        ("a,me@web[1-2]:22", "a port is given in the long form: ssh://me@web[1-2]:22", ":22"),
        ("me@a?nice=5", "settings are given in the long form: ssh://me@a?…", "?"),
        ("2*local?nice=5", "settings are given in the long form: local://?…", "?"),
        ("a;b", "';' cannot be part of a host name", ";"),
        ("a\u{1b}b", "'\\u{1b}' cannot be part of a host name", "\u{1b}"),
        ("@", "'@' needs the name of a group, such as @db", "@"),
        ("a,@wbe", "there is no group 'wbe': there are broken, db, prod, rack1, rack2, web", "@wbe"),
    ];
    for (text, message, place) in cases {
        assert_eq!(fault(text), (message.to_owned(), place.to_owned()), "{text}");
    }
}

#[test]
fn names_and_nesting_are_bounded() {
    assert_eq!(fault(&"x".repeat(MAX_NAME + 1)).0, "a host name longer than 1024 bytes");
    assert_eq!(names(&"x".repeat(MAX_NAME)).len(), 1);
    assert_eq!(fault(&"(".repeat(100_000)).0, "parentheses nest too deeply: at most 32 levels");
    let chain: String = (0..100).map(|i| format!("g{i}: @g{}\n", i + 1)).collect();
    let groups = Groups::parse(&chain, Path::new("groups")).unwrap();
    let error = evaluate("@g0", Source::Argument, &groups).unwrap_err();
    assert_eq!(error.problem, Problem::GroupsTooDeep(32));
}

#[test]
fn groups_that_refer_twice_to_each_other_cost_no_more() {
    let mut text: String = (0..30).map(|i| format!("g{i}: @g{0} @g{0} @g{0}\n", i + 1)).collect();
    text.push_str("g30: a\n");
    let groups = Groups::parse(&text, Path::new("groups")).unwrap();
    assert_eq!(evaluate("@g0", Source::Argument, &groups).unwrap().len(), 1);
}

#[test]
fn a_group_in_a_circle_is_refused_with_the_circle_and_the_line() {
    let groups = Groups::parse("a: @b\n\nb: x @c\nc: @b\n", Path::new("/etc/farcall/groups")).unwrap();
    let error = evaluate("@a", Source::Argument, &groups).unwrap_err();
    assert_eq!(error.to_string(), "/etc/farcall/groups:4: the group contains itself: b -> c -> b");
    assert_eq!(error.place.excerpt(), "  @b\n  ^^");
}

#[test]
fn an_excerpt_points_at_the_part() {
    let error = evaluate("web1,wéb[20-01],db1", Source::Argument, &Groups::default()).unwrap_err();
    assert_eq!(error.place.excerpt(), "  web1,wéb[20-01],db1\n           ^^^^^");
    let long = format!("{}[x]{}", "a".repeat(50), "b".repeat(50));
    let error = evaluate(&long, Source::Argument, &Groups::default()).unwrap_err();
    let expected = format!("  …{}[x]{}…\n   {}^", "a".repeat(29), "b".repeat(29), " ".repeat(30),);
    assert_eq!(error.place.excerpt(), expected);
}

#[test]
fn a_groups_file_says_which_line_is_wrong() {
    let fails = |text: &str| Groups::parse(text, Path::new("g")).unwrap_err();
    let path = || "g".to_owned();
    assert_eq!(fails("# x\nweb[1-3]\n"), GroupsError::NoColon { path: path(), line: 2 });
    assert_eq!(fails("a b: c"), GroupsError::BadName { path: path(), line: 1, name: "a b".into() });
    assert_eq!(
        fails("a: b\n\na: c"),
        GroupsError::Duplicate { path: path(), line: 3, name: "a".into(), first: 1 }
    );
    assert_eq!(fails("  a: b"), GroupsError::NothingToContinue { path: path(), line: 1 });
    let colons = Groups::parse("rack:1: a\nsix: ssh://[::1]:22", Path::new("g")).unwrap();
    assert_eq!(colons.names().collect::<Vec<_>>(), ["rack:1", "six"]);
    let set = evaluate("@rack:1 @six", Source::Argument, &colons).unwrap();
    assert_eq!(fold(set.iter()), "a,ssh://[::1]:22");
}

fn select(selection: &Selection, stdin: &str) -> Result<String, SelectError> {
    selection.resolve(&groups(), stdin.as_bytes()).map(|set| fold(set.iter()))
}

#[test]
fn options_together_choose_hosts() {
    let base = Selection { with: vec!["n[1-3]".into(), "@db".into()], ..Selection::default() };
    assert_eq!(select(&base, "").unwrap(), "db[1-9,11],n[1-3]");
    let less = Selection { without: vec!["@db".into(), "n2".into()], ..base.clone() };
    assert_eq!(select(&less, "").unwrap(), "n[1,3]");
    let all = Selection { all: true, ..Selection::default() };
    assert_eq!(select(&all, "").unwrap(), "a,b,db[1-9,11],web[01-03]");
    let named = Groups::parse("all: a,b\nc: c", Path::new("g")).unwrap();
    assert_eq!(
        fold(all.resolve(&named, &b""[..]).unwrap().iter()),
        "a,b",
        "a group called all is what -a takes"
    );
    let file = Selection { files: vec![PathBuf::from("-")], ..Selection::default() };
    assert_eq!(select(&file, "# mine\nn[1-2]\n\n n3,n4 # spare\r\n@rack1\n").unwrap(), "a,n[1-4]");
}

#[test]
fn no_hosts_is_an_error() {
    let none = select(&Selection::default(), "").unwrap_err();
    assert!(none.to_string().starts_with("no hosts chosen: name them with -w"), "{none}");
    let out =
        Selection { with: vec!["n[1-3]".into()], without: vec!["n[1-9]".into()], ..Selection::default() };
    assert_eq!(select(&out, "").unwrap_err().to_string(), "no hosts matched: -x takes out all 3");
    let empty = Selection { with: vec!["a!a".into()], ..Selection::default() };
    assert_eq!(select(&empty, "").unwrap_err().to_string(), "no hosts matched");
    let file = Selection { files: vec![PathBuf::from("-")], ..Selection::default() };
    assert_eq!(select(&file, "# nobody\n").unwrap_err().to_string(), "no hosts matched");
    assert_eq!(
        select(&file, "a\nb]\n").unwrap_err().to_string(),
        "standard input:2: this ']' closes no bracket: take it away, or write '[' before the ranges"
    );
    let gone = Selection { files: vec![PathBuf::from("/no/such/file")], ..Selection::default() };
    assert_eq!(
        select(&gone, "").unwrap_err().to_string(),
        "cannot read /no/such/file: No such file or directory (os error 2)"
    );
}

#[test]
fn without_a_groups_file_the_error_names_where_it_was_looked_for() {
    let usual = [PathBuf::from("/no/such/a"), PathBuf::from("/no/such/b")];
    let groups = read_groups(None, &usual).unwrap();
    let all = Selection { all: true, ..Selection::default() };
    let error = all.resolve(&groups, &b""[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "-a takes the hosts of the groups file, and there is none: looked for /no/such/a, /no/such/b"
    );
    for text in ["@db", "@*"] {
        let error = evaluate(text, Source::Argument, &groups).unwrap_err();
        assert!(matches!(error.problem, Problem::NoGroupsFile { .. }), "{error}");
    }
    let asked = read_groups(Some(Path::new("/no/such/a")), &usual).unwrap_err();
    assert!(matches!(asked, SelectError::Read { .. }), "{asked}");
}

//! What every request to a server asks of it besides its statement, so that an answer means the same whatever the user's profile says.
//! Pure.
//!
//! All of these exist since release 24.8; a server that does not know one refuses the request.

use super::chdb::{PART_BYTES, PART_ROWS};
use super::site::Site;

/// An answer comes when all is done, so that an error has a status and a number; rows wait at the server meanwhile.
const WHOLE: [(&str, &str); 1] = [("wait_end_of_query", "1")];

/// An answer means stored.
const STORED: [(&str, &str); 5] = [
    ("async_insert", "0"),
    ("wait_for_async_insert", "1"),
    // A null in a column that has none is an error, not a zero.
    ("input_format_null_as_default", "0"),
    ("insert_null_as_default", "0"),
    // By the name that each insert has, and not by what is in it, which is what a replicated table does without a name.
    ("insert_deduplicate", "1"),
];

/// An answer is complete: what is too much is an error, and not the part that was not too much.
const COMPLETE: [(&str, &str); 9] = [
    ("result_overflow_mode", "throw"),
    ("read_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("group_by_overflow_mode", "throw"),
    // It is of now, and of what was stored before on any replica.
    ("use_query_cache", "0"),
    ("select_sequential_consistency", "1"),
];

/// Values look as the sink reads them.
const SHAPE: [(&str, &str); 5] = [
    // Strings of the engine are bytes: they are checked where they are read.
    ("output_format_arrow_string_as_string", "0"),
    ("output_format_json_quote_64bit_integers", "0"),
    ("output_format_json_quote_denormals", "1"),
    ("print_pretty_type_names", "0"),
    ("session_timezone", "UTC"),
];

/// Most replicas have what was stored, one insert after the other.
const BY_QUORUM: [(&str, &str); 2] = [("insert_quorum", "auto"), ("insert_quorum_parallel", "0")];

/// The settings of every request.
pub(super) fn settings(site: &Site, compression: bool) -> Vec<(String, String)> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    all.extend(WHOLE);
    all.extend(STORED);
    all.extend(COMPLETE);
    all.extend(SHAPE);
    all.push(("output_format_arrow_compression_method", if compression { "lz4_frame" } else { "none" }));
    if site.is_replicated() {
        all.extend(BY_QUORUM);
    }
    let mut all: Vec<(String, String)> = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    // One insert is one part, which is there whole or not at all.
    for (name, value) in [
        ("max_insert_block_size", PART_ROWS),
        ("min_insert_block_size_rows", PART_ROWS),
        ("min_insert_block_size_bytes", PART_BYTES),
    ] {
        all.push((name.to_owned(), value.to_string()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::config::ServerOptions;
    use super::*;

    fn shown(engine: Option<&str>, compression: bool) -> String {
        let mut options = ServerOptions::at("http://localhost:8123".parse().unwrap());
        options.engine = engine.map(str::to_owned);
        let site = Site::of_server(&options, false).unwrap();
        let all = settings(&site, compression);
        all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_answer_means_stored_and_whole() {
        let expected = "wait_end_of_query=1 async_insert=0 wait_for_async_insert=1 input_format_null_as_default=0 \
                        insert_null_as_default=0 insert_deduplicate=1 result_overflow_mode=throw read_overflow_mode=throw \
                        timeout_overflow_mode=throw set_overflow_mode=throw sort_overflow_mode=throw distinct_overflow_mode=throw \
                        group_by_overflow_mode=throw use_query_cache=0 select_sequential_consistency=1 \
                        output_format_arrow_string_as_string=0 output_format_json_quote_64bit_integers=0 \
                        output_format_json_quote_denormals=1 print_pretty_type_names=0 session_timezone=UTC \
                        output_format_arrow_compression_method=none max_insert_block_size=1048576 \
                        min_insert_block_size_rows=1048576 min_insert_block_size_bytes=67108864";
        assert_eq!(shown(None, false).lines().collect::<Vec<_>>(), expected.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn replicas_answer_together() {
        let (one, many) = (shown(None, true), shown(Some("ReplicatedReplacingMergeTree(_version, _deleted)"), true));
        assert!(!one.contains("insert_quorum") && one.contains("output_format_arrow_compression_method=lz4_frame"));
        assert!(many.contains("insert_quorum=auto\ninsert_quorum_parallel=0"));
    }

    #[test]
    fn no_setting_is_mistaken_for_part_of_a_table_that_is_sent_along() {
        // Beside an external table the server takes parameters with these ends for its own.
        for line in shown(Some("ReplicatedReplacingMergeTree(_version, _deleted)"), true).lines() {
            let name = line.split('=').next().unwrap();
            assert!(["_format", "_types", "_structure"].iter().all(|end| !name.ends_with(end)), "{name}");
        }
    }
}

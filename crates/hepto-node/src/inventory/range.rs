//! Host patterns such as `node[1:3]` and `node[01:10:2]-[a:c]:2222`, as Ansible expands them.

/// No inventory has more nodes from one line; what has is a slip of the pen.
const MOST_NAMES: usize = 4096;

/// The hosts that a pattern names, or why it names none.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let pattern = without_port(pattern);
    let mut names = Vec::new();
    expand_into(pattern, &mut names)?;
    Ok(names)
}

/// `host:22` without its port, which is SSH's and none of ours; ranges have colons of their own.
fn without_port(pattern: &str) -> &str {
    match pattern.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && host.matches('[').count() == host.matches(']').count()
                && !outside_brackets(host).contains(':') =>
        {
            host
        }
        _ => pattern,
    }
}

fn outside_brackets(text: &str) -> String {
    let mut inside = false;
    let keep = |character: &char| {
        inside = (inside || *character == '[') && *character != ']';
        !inside
    };
    text.chars().filter(keep).collect()
}

fn expand_into(pattern: &str, names: &mut Vec<String>) -> Result<(), String> {
    let Some((head, rest)) = pattern.split_once('[') else {
        if names.len() == MOST_NAMES {
            return Err(format!("the range names more than {MOST_NAMES} hosts"));
        }
        names.push(pattern.to_owned());
        return Ok(());
    };
    let (range, tail) = rest
        .split_once(']')
        .ok_or("the range lacks its closing bracket")?;
    let bounds: Vec<&str> = range.split(':').collect();
    let (first, last, step) = match bounds[..] {
        [first, last] => (first, last, "1"),
        [first, last, step] => (first, last, step),
        _ => return Err("a range is [first:last] or [first:last:step]".to_owned()),
    };
    for item in items(first, last, step)? {
        expand_into(&format!("{head}{item}{tail}"), names)?;
    }
    Ok(())
}

fn items(first: &str, last: &str, step: &str) -> Result<Vec<String>, String> {
    let first = if first.is_empty() { "0" } else { first };
    if last.is_empty() {
        return Err("the range lacks its end".to_owned());
    }
    let width = if first.starts_with('0') && first.len() > 1 {
        first.len()
    } else {
        0
    };
    if width != 0 && width != last.len() {
        return Err("with leading zeros both ends of a range must be equally long".to_owned());
    }
    let step: usize = step
        .parse()
        .ok()
        .filter(|step| *step > 0)
        .ok_or("a range's step is a number above 0")?;
    if let (Some(first), Some(last)) = (letter(first), letter(last)) {
        if first > last {
            return Err("the range ends before it begins".to_owned());
        }
        let letters = (first..=last).step_by(step);
        return Ok(letters
            .map(|index| char::from(LETTERS[index]).to_string())
            .collect());
    }
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| format!("\"{text}\" is neither a number nor a letter"))
    };
    let (first, last) = (number(first)?, number(last)?);
    let numbers = (first..=last).step_by(step).take(MOST_NAMES + 1);
    let names: Vec<String> = numbers.map(|number| format!("{number:0width$}")).collect();
    if names.is_empty() {
        Err("the range ends before it begins".to_owned())
    } else {
        Ok(names)
    }
}

/// In the order of Python's `string.ascii_letters`, in which a range may run from `a` to `Z`.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn letter(text: &str) -> Option<usize> {
    let [byte] = text.as_bytes() else { return None };
    LETTERS.iter().position(|letter| letter == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ansibles() {
        let expanded = |pattern: &str| expand(pattern).expect(pattern).join(" ");
        assert_eq!(expanded("node"), "node");
        assert_eq!(expanded("node[1:3]"), "node1 node2 node3");
        assert_eq!(expanded("node[:2]"), "node0 node1 node2");
        assert_eq!(expanded("node[08:10]x"), "node08x node09x node10x");
        assert_eq!(expanded("node[1:7:3]"), "node1 node4 node7");
        assert_eq!(expanded("n[a:c]"), "na nb nc");
        assert_eq!(expanded("n[1:2]-[a:b]"), "n1-a n1-b n2-a n2-b");
        assert_eq!(expanded("node:2222"), "node");
        assert_eq!(expanded("node[1:2]:2222"), "node1 node2");
    }

    #[test]
    fn bad_ranges_are_refused() {
        for pattern in [
            "n[1]",
            "n[1:2:3:4]",
            "n[1:",
            "n[2:1]",
            "n[c:a]",
            "n[1:]",
            "n[01:100]",
            "n[1:5:0]",
            "n[1:x]",
        ] {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
        assert!(expand("n[0:99999999]").is_err(), "a slip of the pen");
        assert!(expand("n[0:999][0:999][0:999]").is_err(), "bounded in all");
    }
}

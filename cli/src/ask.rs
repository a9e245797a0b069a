//! Questions to a person, on standard error, answered on standard input.

use std::io::{self, BufRead as _};

use crate::failure::Failure;
use crate::output::Printer;

/// Asks a yes-or-no question; anything but a clear yes is a no.
pub fn confirm(printer: &mut Printer, question: &str) -> Result<bool, Failure> {
    printer.ask(&format!("{question} [y/N] "));
    Ok(is_yes(&line()?))
}

/// Asks for one of several answers by its first letter, in lower case; `None` is no answer.
pub fn letter(printer: &mut Printer, question: &str) -> Result<Option<char>, Failure> {
    printer.ask(&format!("{question} "));
    Ok(line()?.trim().chars().next().map(|c| c.to_ascii_lowercase()))
}

/// Lets a person choose one of several by number or by name.
pub fn choose<'a>(
    printer: &mut Printer,
    what: &str,
    items: &'a [String],
) -> Result<&'a str, Failure> {
    for (index, item) in items.iter().enumerate() {
        printer.say(&format!("  {:>2}  {item}", index + 1));
    }
    printer.ask(&format!("Which {what}? [1-{}] ", items.len()));
    let answer = line()?;
    chosen(&answer, items)
        .ok_or_else(|| Failure::usage(format!("no {what} `{}`", answer.trim().escape_debug())))
}

fn chosen<'a>(answer: &str, items: &'a [String]) -> Option<&'a str> {
    let answer = answer.trim();
    let by_number = answer.parse::<usize>().ok().and_then(|n| items.get(n.checked_sub(1)?));
    by_number.or_else(|| items.iter().find(|item| *item == answer)).map(String::as_str)
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn line() -> Result<String, Failure> {
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Failure::error("could not read the answer").because(&e))?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES", true), ("", false), ("n", false), ("yep", false), ("1", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn by_number_or_name() {
        let items = ["dev".to_owned(), "review".to_owned()];
        assert_eq!(chosen("2\n", &items), Some("review"));
        assert_eq!(chosen("dev\n", &items), Some("dev"));
        for wrong in ["0", "3", "", "de"] {
            assert_eq!(chosen(wrong, &items), None, "{wrong}");
        }
    }
}

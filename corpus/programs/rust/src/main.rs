//! Counts words, on several threads.

mod count;

use std::sync::mpsc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (sender, receiver) = mpsc::channel();
    for path in std::env::args().skip(1) {
        let sender = sender.clone();
        std::thread::spawn(move || sender.send(std::fs::read_to_string(path)));
    }
    drop(sender);
    let texts = receiver.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (word, count) in count::most_frequent(texts.iter().map(String::as_str), 2) {
        println!("{count} {word}");
    }
    Ok(())
}

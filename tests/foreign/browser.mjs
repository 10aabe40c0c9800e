// A guest's screen in headless Chromium.
//
//     browser.mjs LINK TEXT PICTURE <ANSWER
//
// Opens the link, waits for the screen, types a line, takes a picture when it hears that the guest did what the line
// says, and tries the link once more. Exits with 0 when everything was as it should be.
import { chromium } from "playwright-core";

const [link, text, picture] = process.argv.slice(2);
const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"],
});
try {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 900, height: 540 } });
    const page = await context.newPage();
    const complaints = [];
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(link);
    await page.waitForSelector("#state[data-state=connected]", { timeout: 60000 }).catch(async (error) => {
        throw new Error(`${await page.textContent("#state")}; ${complaints.join("; ")}; ${error}`);
    });
    // A screen with something on it: more than one colour.
    await page.waitForFunction(() => {
        const canvas = document.querySelector("#screen canvas");
        if (!canvas?.width) return false;
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size > 1;
    }, null, { timeout: 60000 });
    await page.click("#screen canvas");
    for (const character of `${text}\n`) {
        // As a hand does: playwright does not press Shift by itself, and the guest sees keys, not characters.
        const shift = /[A-Z~!@#$%^&*()_+{}|:"<>?]/.test(character);
        if (shift) await page.keyboard.down("Shift");
        await page.keyboard.press(character === "\n" ? "Enter" : character, { delay: 20 });
        if (shift) await page.keyboard.up("Shift");
    }
    console.log(await page.textContent("#name"));
    // The line is on the screen when the guest has drawn it; the caller sees it on the serial port.
    const seen = await new Promise((resolve) => {
        process.stdin.once("data", () => resolve(true)).once("end", () => resolve(false));
    });
    await page.screenshot({ path: picture });
    if (!seen) throw new Error("the guest did not do what was typed");
    if (complaints.length) throw new Error(complaints.join("; "));
    const again = await context.newPage();
    const status = (await again.goto(link)).status();
    if (status !== 404) throw new Error(`the link opened twice: ${status}`);
} finally {
    await browser.close();
}
process.exit(0);

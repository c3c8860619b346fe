// The page's entry: the frame around the views.

import "./styles/base.css";
import "./styles/frame.css";
import { render } from "preact";
import { startChats } from "./chat/chats";
import { Frame } from "./Frame";
import { applyLanguage } from "./language/language";
import { applyTheme } from "./theme";

applyTheme();
applyLanguage();
startChats();
const place = document.getElementById("page");
if (place !== null) render(<Frame />, place);

// SPDX-License-Identifier: MIT
// node dh_view_page.js DH_VIEW.JS FILE: valgrind's own viewer opens the file, in a page that is
// as much of a browser as it asks for, and the text that it shows is printed.
"use strict";
const fs = require("fs"), vm = require("vm");

class Node {
  constructor(tag, text) {
    Object.assign(this, {tagName: tag, data: text || "", childNodes: [], className: ""});
  }
  appendChild(child) {
    child.parentNode = this;
    this.childNodes.push(child);
    return child;
  }
  replaceChild(to, from) {
    to.parentNode = this;
    this.childNodes[this.childNodes.indexOf(from)] = to;
  }
  cloneNode() { return Object.assign(new Node(this.tagName), {className: this.className}); }
  get selectedIndex() { return this.childNodes.findIndex(option => option.selected); }
  get textContent() { return this.data + this.childNodes.map(n => n.textContent).join(""); }
  set textContent(text) {
    this.childNodes = [];
    this.data = text;
  }
}

const [viewer, path] = process.argv.slice(2);
class FileReader {
  readAsText() { this.onload({target: {result: fs.readFileSync(path, "utf8")}}); }
}
const document = {
  title: "", body: new Node("body"), location: {search: ""},
  createElement: tag => new Node(tag),
  createTextNode: text => new Node("#text", text),
};
const page = vm.createContext({document, window: {}, console, performance, URLSearchParams,
                               FileReader});
vm.runInContext(fs.readFileSync(viewer, "utf8"), page);
vm.runInContext(`onLoad(); gInput.files = [{name: "x"}]; gInput.onchange();`, page);
console.log(document.body.textContent);
